"""Addresses of pages: hosts, block lists, and hosts most of whose documents are rejected.

A host is the name in an address, in small letters, without `www.` and port. A block list is a text file: a
line is a domain (`example.com`, which stands for all hosts below it; `0.0.0.0 example.com` as in hosts files
too), the beginning of addresses without scheme (`example.com/forum/`), `word:WORD` for addresses that have it
between signs, or a comment behind #.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dsllm.errors import InputError
from dsllm.stages.filter.table import Table
from dsllm.text.shingles import Hashes, hash_words

_HOST = re.compile(
    r"(?:(?:[a-z][a-z0-9+.\-]*:)?//|mailto:)?(?:[^/?#@]*@)?(?:www\.)?(\[[^\]/?#]*\]|[^/?#:@]+)(?::\d*)?(.*)",
    re.DOTALL,
)
# RFC 1035, section 2.3.4: no list has a longer one, and all its ends would be looked up.
_MAX_HOST_CHARS = 253
_WORD = re.compile(r"[a-z0-9]+|[^\W\d_]+")
_LOCAL = ("0.0.0.0", "127.0.0.1", "::1")


def split_address(address: str) -> tuple[str, str]:
    """Split an address into its host and what follows it; ("", "") where there is no host."""
    found = _HOST.fullmatch(address.strip().lower())
    return (found[1].rstrip("."), found[2]) if found else ("", "")


@dataclass
class BlockList:
    """What block lists say, all of them together."""

    domains: set[str] = field(default_factory=set)
    beginnings: dict[str, list[str]] = field(default_factory=dict)  # of what follows the host, by host
    words: set[str] = field(default_factory=set)

    @classmethod
    def read(cls, paths: Sequence[str]) -> "BlockList":
        """Read files.

        Raises:
            InputError: no such file, no entry in it, or one that no address can fit.
        """
        found = cls()
        for path in paths:
            try:
                lines = Path(path).read_text("utf-8").splitlines()
            except (OSError, UnicodeDecodeError) as error:
                raise InputError(f"{path}: {error}", hint="give --block-urls text files in UTF-8") from None
            entries = [entry for line in lines if (entry := line.partition("#")[0].strip())]
            if not entries:
                raise InputError(f"{path}: no entry in it", hint="write a domain a line")
            for entry in entries:
                if not found._add(entry):
                    raise InputError(
                        f"{path}: {entry!r} is no entry",
                        hint="write a domain, the beginning of an address with its host, or word:WORD",
                    )
        return found

    def _add(self, entry: str) -> bool:
        """Take an entry in; False where it is none."""
        if entry.startswith("word:"):
            word = entry.removeprefix("word:").strip().lower()
            self.words.add(word)
            return _WORD.fullmatch(word) is not None
        first, *rest = entry.split()
        host, path = split_address(rest[0] if rest and first in _LOCAL else first)
        if path.strip("/"):
            self.beginnings.setdefault(host, []).append(path)
        elif host:
            self.domains.add(host)
        return bool(host)

    def find(self, address: str) -> str | None:
        """Name the entry that blocks an address, None where there is none."""
        host, path = split_address(address)
        domain = host if len(host) <= _MAX_HOST_CHARS else ""
        while domain:
            if domain in self.domains:
                return domain
            domain = domain.partition(".")[2]
        for beginning in self.beginnings.get(host, ()):
            if path.startswith(beginning):
                return host + beginning
        if self.words:
            for word in _WORD.findall(address.lower()):
                if word in self.words:
                    return f"word:{word}"
        return None


def addresses_of(table: Table, url_field: str) -> list[str]:
    """Give each document's address, "" where it has none."""
    values = table.documents.values(url_field)
    return [value if isinstance(value, str) else "" for value in values]


def hash_hosts(addresses: Sequence[str]) -> Hashes:
    """Hash the host of each address to 64 bits, 0 where there is none."""
    hosts = [split_address(address)[0] for address in addresses]
    distinct = list(dict.fromkeys(host for host in hosts if host and not host.isspace()))
    hashes = dict(zip(distinct, hash_words([host.replace(" ", "_") for host in distinct]), strict=True))
    return np.array([hashes.get(host, np.uint64(0)) for host in hosts], np.uint64)


@dataclass(frozen=True)
class BlockUrls:
    """Documents from addresses on a block list go."""

    blocked: BlockList
    url_field: str

    def __call__(self, table: Table) -> None:
        """Look each address up."""
        found = [
            self.blocked.find(address) if address else None for address in addresses_of(table, self.url_field)
        ]
        mask = np.array([entry is not None for entry in found], bool)
        table.test("block_urls", mask, found, None, spares_exempt=False)


@dataclass(frozen=True)
class HostRates:
    """Hosts most of whose documents are rejected: hashes, ascending, and the share of each."""

    hosts: Hashes
    rates: NDArray[np.float64]


def rate_hosts(
    hosts: Hashes,
    n_documents: NDArray[np.int64],
    n_rejected: NDArray[np.int64],
    *,
    max_rate: float,
    least: int,
) -> HostRates:
    """Find the hosts with `least` documents or more of which a share above `max_rate` was rejected.

    Args:
        hosts: hashes, each as often as it comes; 0 is none.
        n_documents: of each.
        n_rejected: of each.
        max_rate: share of documents.
        least: documents of a host that is judged.
    """
    distinct, index = np.unique(hosts, return_inverse=True)
    totals = np.bincount(index, n_documents, len(distinct))
    rates = np.bincount(index, n_rejected, len(distinct)) / np.maximum(totals, 1)
    chosen = (distinct != 0) & (totals >= least) & (rates > max_rate)
    return HostRates(distinct[chosen], rates[chosen])


@dataclass(frozen=True)
class BadHosts:
    """Documents from hosts most of whose documents are rejected go too."""

    found: HostRates
    url_field: str
    max_rate: float

    def __call__(self, table: Table) -> None:
        """Look each host up."""
        if not len(self.found.hosts):
            return
        hashes = hash_hosts(addresses_of(table, self.url_field))
        places = np.minimum(np.searchsorted(self.found.hosts, hashes), len(self.found.hosts) - 1)
        mask = self.found.hosts[places] == hashes
        table.test("host_rejection", table.looked_at & mask, self.found.rates[places], self.max_rate)
