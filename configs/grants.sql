-- What the archiver's role needs, and nothing more. Run it as a superuser or as
-- the owner, with psql, once in each source database:
--
--   psql -v role=archiver -v schema=public -v table=audit_logs -v key=id -f configs/grants.sql DATABASE
--
-- The role itself: CREATE ROLE archiver LOGIN PASSWORD '...'. In the control
-- database it needs a schema of its own: CREATE SCHEMA archiver AUTHORIZATION archiver.

-- See the table.
GRANT USAGE ON SCHEMA :"schema" TO :"role";
-- Read it, and delete from it. On a partitioned table the parent is enough.
GRANT SELECT, DELETE ON :"schema".:"table" TO :"role";
-- Lock rows before the delete (SELECT ... FOR UPDATE needs UPDATE on one column).
-- Nothing is ever updated: grant it on a column that an update could not falsify.
GRANT UPDATE (:"key") ON :"schema".:"table" TO :"role";
