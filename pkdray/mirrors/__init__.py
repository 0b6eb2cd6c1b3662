"""Folders on remote storage (s3://, gs://, file://), each with a mirror on this machine that the rest of pkdray uses.

The rest of pkdray works with ``pathlib.Path``. A URI becomes a `MirrorPath` below this machine's mirror home; sent to
another node it becomes a path below that node's own. ``pull`` brings the mirror to what is remote, ``push`` the other
way, whole files only; on plain paths both do nothing, so callers need not ask where they are.

Two rules hold for every mirror. A name that begins with a dot stays on its machine. A local file that was not changed
since it was pulled or pushed follows the remote one; a file that was written here since is unpushed work, and gives way
to a remote one that is newer alone.
"""

from pkdray.mirrors.lease import LEASE_FILE, REFRESH_SECONDS, Lease, lease_holder, tried
from pkdray.mirrors.paths import MirrorPath, home, is_uri, open_root, shown, typed, uri_of
from pkdray.mirrors.remote import Stamp, delete, exists, folders, listing, read, remove, stat, write
from pkdray.mirrors.transfer import Seldom, alone, fetch, forget, have, pull, pull_file, push, push_as, push_file

__all__ = [
    "LEASE_FILE",
    "REFRESH_SECONDS",
    "Lease",
    "MirrorPath",
    "Seldom",
    "Stamp",
    "alone",
    "delete",
    "exists",
    "fetch",
    "folders",
    "forget",
    "have",
    "home",
    "is_uri",
    "lease_holder",
    "listing",
    "open_root",
    "pull",
    "pull_file",
    "push",
    "push_as",
    "push_file",
    "read",
    "remove",
    "shown",
    "stat",
    "tried",
    "typed",
    "uri_of",
    "write",
]
