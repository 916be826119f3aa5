"""Which licences let curated rows be passed on, and what the Hub calls them.

A name that is in neither table counts as unknown, and unknown is refused: whoever publishes says what holds, source by
source. Non-commercial and share-alike licences permit passing on; their conditions travel with the rows.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

_PERMITTED = re.compile(
    r"mit(-0)?|apache-?2(\.0)?|bsd(-[0-9]-clause)?|isc|zlib|unlicense|wtfpl|0bsd|artistic-2\.0|ms-pl|afl-3\.0|ecl-2\.0"
    r"|cc0(-1\.0)?|pddl(-1\.0)?|odbl(-1\.0)?|odc-by(-1\.0)?|public[- ]domain|cdla-(permissive|sharing)-[0-9.]+|gfdl(-[0-9.]+)?"
    r"|cc-by(-nc)?(-sa)?(-[0-9.]+)?([- ][a-z]{2,3})?|(a|l)?gpl(-?v?[0-9.]+)?(-only|-or-later|\+)?|mpl-2\.0|epl-[12]\.0|eupl-[0-9.]+"
    r"|c-uda|etalab-2\.0|openrail|bigscience-openrail-m|creativeml-openrail-m"
)
_FORBIDDEN = re.compile(
    r"cc-by(-nc)?-nd(-.*)?|all[- ]rights[- ]reserved|proprietary|no[- ]redistribution|internal([- ]use)?([- ]only)?|confidential"
    r"|research[- ](use[- ])?only|copyright(ed)?|none|not[- ]redistributable"
)


def redistribution(name: str) -> str:
    """`permitted`, `forbidden` or `unknown`, for the name of a licence as sources write it."""
    plain = _plain(name)
    if _FORBIDDEN.fullmatch(plain):
        return "forbidden"
    return "permitted" if _PERMITTED.fullmatch(plain) else "unknown"


_OF_THE_HUB = re.compile(
    r"afl-3\.0|agpl-3\.0|apache-2\.0|artistic-2\.0|bigscience-openrail-m|bsd|bsd-2-clause|bsd-3-clause"
    r"|bsd-3-clause-clear|bsl-1\.0|c-uda|cc|cc0-1\.0|cc-by-2\.0|cc-by-2\.5|cc-by-3\.0|cc-by-4\.0|cc-by-nc-2\.0"
    r"|cc-by-nc-3\.0|cc-by-nc-4\.0|cc-by-nc-nd-3\.0|cc-by-nc-nd-4\.0|cc-by-nc-sa-2\.0|cc-by-nc-sa-3\.0"
    r"|cc-by-nc-sa-4\.0|cc-by-nd-4\.0|cc-by-sa-3\.0|cc-by-sa-4\.0|cdla-permissive-1\.0|cdla-permissive-2\.0"
    r"|cdla-sharing-1\.0|creativeml-openrail-m|ecl-2\.0|epl-1\.0|epl-2\.0|etalab-2\.0|eupl-1\.1|eupl-1\.2|gfdl|gpl"
    r"|gpl-2\.0|gpl-3\.0|isc|lgpl|lgpl-2\.1|lgpl-3\.0|mit|mpl-2\.0|ms-pl|ncsa|odbl|odc-by|ofl-1\.1|openrail|osl-3\.0"
    r"|pddl|postgresql|unknown|unlicense|wtfpl|zlib"
)
"""Identifiers of the Hub that data can have (https://huggingface.co/docs/hub/repositories-licenses)."""


def hub_id(name: str) -> str | None:
    """What the Hub calls a licence, or None where it has no name for it."""
    plain = re.sub(r"-(only|or-later)$", "", _plain(name))
    plain = re.sub(r"^(odbl|odc-by|pddl)-1\.0$", r"\1", {"cc0": "cc0-1.0"}.get(plain, plain))
    plain = re.sub(r"^(apache|[al]?gpl|mpl)-?v?(\d)(\.\d)?$", lambda m: f"{m[1]}-{m[2]}{m[3] or '.0'}", plain)
    return plain if _OF_THE_HUB.fullmatch(plain) else None


def front_matter(names: Iterable[str]) -> dict[str, Any]:
    """The fields of a card that state these licences: the Hub's own names, or `other` with the names as they are."""
    told = sorted(set(names))
    ids = sorted({found for name in told if (found := hub_id(name)) is not None})
    if told and all(hub_id(name) for name in told):
        return {"license": ids[0] if len(ids) == 1 else ids}
    slug = re.sub(r"[^a-z0-9.-]+", "-", told[0].lower()).strip("-") if len(told) == 1 else "mixed"
    return {"license": "other", "license_name": slug or "other", "license_details": "; ".join(told)}


def _plain(name: str) -> str:
    """A name in lower case, with hyphens, without the word licence: `CC BY 4.0` is `cc-by-4.0`."""
    plain = re.sub(r"[\s_,]+", "-", name.strip().lower())
    return re.sub(r"(^|-)(licen[cs]e|version)(?=-|$)", "", plain).replace("creative-commons-", "cc-").strip("-")
