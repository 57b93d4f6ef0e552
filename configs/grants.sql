-- What the archiver's role needs, and nothing more. Run it as a superuser or as
-- the owner, with psql, once in each source database:
--
--   psql -v role=archiver -v schema=public -v table=audit_logs -f configs/grants.sql DATABASE
--
-- The role itself: CREATE ROLE archiver LOGIN PASSWORD '...'. In the control
-- database it needs a schema of its own: CREATE SCHEMA archiver AUTHORIZATION archiver.

-- See the table.
GRANT USAGE ON SCHEMA :"schema" TO :"role";
-- Read it, and delete from it. On a partitioned table the parent is enough.
GRANT SELECT, DELETE ON :"schema".:"table" TO :"role";
-- Nothing is ever updated, and no UPDATE is needed.
