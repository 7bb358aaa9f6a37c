"""How many threads numpy may use in our processes. Standard library only: workers import this."""

import os


def one_thread_for_numpy() -> None:
    """Keep linear algebra of this process and its children to one thread, unless the environment says otherwise.

    Our matrices are small and played side by side: there a second thread takes another process's core, and waits for
    work in a loop. Only counts before numpy is imported for the first time.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
