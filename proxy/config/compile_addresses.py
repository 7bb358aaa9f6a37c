"""Addresses of engines that may hold a password: they become references, as every secret does.

Invariant: no message repeats an address.
"""

from collections.abc import Callable

from proxy.config.compile_upstreams import SecretStore
from proxy.config.places import holds_password
from proxy.config.problems import Findings, KeyPath
from proxy.config.secrets import is_header_safe, is_reference, resolve


def compile_address(
    text: str,
    path: KeyPath,
    secrets: SecretStore,
    findings: Findings,
    *,
    unset: str,
    problem: Callable[[str], str | None],
) -> str | None:
    """The reference that stands for the address ``text``; None after a problem.

    Args:
        text: As written: an address or a reference to one.
        path: Where it stands.
        secrets: Take what is written out.
        findings: Get problems and notes.
        unset: What it means when the variable that holds the address is not set; the end of a note.
        problem: What is wrong with a known address, None if nothing is.
    """
    if not is_header_safe(text):
        findings.problem(path, "must be printable ASCII on one line; write other letters as %XX.")
        return None
    if is_reference(text) or (holds_password(text) and path not in findings.composed):
        reference = secrets.reference(text, path, findings)
    else:
        reference = secrets.keep(text.strip())
    if reference is None:
        return None
    url = resolve(reference, secrets.environ, secrets.literals)
    if url is None:
        findings.note(path, f"{reference} is not set; {unset}")
        return reference
    found = problem(url)
    if found is not None:
        findings.problem(path, found)
    return reference
