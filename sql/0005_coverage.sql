-- What is known of a day: the manifest in columns for questions, whole for everything else.

CREATE TABLE coverage (
    market_id    smallint NOT NULL REFERENCES market,
    day          date     NOT NULL,
    status       text     NOT NULL CHECK (status IN ('complete', 'gaps', 'unknown')),
    reason       text     NOT NULL,
    rows         bigint   NOT NULL,
    fills        bigint   NOT NULL,
    first_time   timestamptz,
    last_time    timestamptz,
    first_id     bigint,
    last_id      bigint,
    missing      bigint   NOT NULL,
    not_served   bigint   NOT NULL,
    rejected     bigint   NOT NULL,
    source       text     NOT NULL,
    ids          text     NOT NULL,
    content_hash text     NOT NULL,
    manifest     jsonb    NOT NULL,
    loaded_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (market_id, day)
);

-- What was refused on its way in, byte for byte, with where it came from.
CREATE TABLE dead_letter (
    dead_letter_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at             timestamptz NOT NULL DEFAULT now(),
    origin         text  NOT NULL,
    position       text  NOT NULL,
    market         text,
    reason         text  NOT NULL,
    raw            bytea NOT NULL,
    UNIQUE (origin, position)
);
