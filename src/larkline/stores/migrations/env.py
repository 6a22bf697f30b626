"""Alembic's entry: runs the scripts on the connection that `larkline.stores.upgrade` hands over."""

from alembic import context

from larkline.stores.schema import metadata

connection = context.config.attributes["connection"]
# The caller has begun the transaction and ends it.
context.configure(connection=connection, target_metadata=metadata, transactional_ddl=False)
context.run_migrations()
