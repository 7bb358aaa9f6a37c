"""What alembic executes to migrate: on the connection, and in the transaction, that ``upgrade`` hands over."""

from alembic import context

from optimizer.control_store.tables import METADATA
from optimizer.control_store.upgrade import CONNECTION, VERSION_TABLE

context.configure(
    connection=context.config.attributes[CONNECTION],
    target_metadata=METADATA,
    version_table=VERSION_TABLE,
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
