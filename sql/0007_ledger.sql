-- What was found wrong, what was done about it, what holds now. Rows are added; none is changed or removed.

CREATE TABLE ledger (
    ledger_id  bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    entry_id   text NOT NULL UNIQUE CHECK (entry_id ~ '^[0-9a-f]{32}$'),
    at         timestamptz NOT NULL,
    event      text NOT NULL CHECK (event IN ('finding', 'repair', 'outcome')),
    state      text NOT NULL
        CHECK (state IN ('open', 'repaired', 'not served', 'failed', 'exhausted', 'information')),
    case_id    text NOT NULL,
    exchange   text NOT NULL,
    symbol     text NOT NULL,
    subject    text NOT NULL,
    reason     text NOT NULL,
    start_time timestamptz NOT NULL,
    end_time   timestamptz NOT NULL,
    detail     text NOT NULL,
    attempt    integer NOT NULL,
    before     jsonb NOT NULL,
    after      jsonb NOT NULL,
    run_id     text NOT NULL,
    CHECK (start_time <= end_time)
);
CREATE INDEX ledger_at ON ledger (at);
CREATE INDEX ledger_case ON ledger (case_id, at);
COMMENT ON TABLE ledger IS 'Findings, repairs and outcomes; append-only';
COMMENT ON COLUMN ledger.case_id IS 'The same for all entries about one thing that is wrong';

CREATE FUNCTION ledger_is_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the ledger is append-only: % is refused', TG_OP
        USING ERRCODE = 'restrict_violation', HINT = 'Add an entry that says what holds now.';
END
$$;
CREATE TRIGGER ledger_is_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_is_append_only();
-- Also where a session has switched ordinary triggers off, as a replica does.
ALTER TABLE ledger ENABLE ALWAYS TRIGGER ledger_is_append_only;

-- How each case stands: its last entry, when it was found, and how often its repair was tried.
CREATE VIEW v_ledger_case AS
SELECT DISTINCT ON (case_id)
    case_id, exchange, symbol, subject, reason, start_time, end_time, state, detail,
    min(at) OVER whole AS found, at AS since, max(attempt) OVER whole AS attempts
FROM ledger
WINDOW whole AS (PARTITION BY case_id)
ORDER BY
    case_id, at DESC, attempt DESC,
    array_position(ARRAY['finding', 'repair', 'outcome'], event) DESC, ledger_id DESC;
