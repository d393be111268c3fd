DROP VIEW v_finding;
DROP TABLE finding;
