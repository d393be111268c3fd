DROP VIEW v_ledger_case;
DROP TABLE ledger;
DROP FUNCTION ledger_is_append_only();
