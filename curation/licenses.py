"""Which licences let curated rows be passed on.

A name that is in neither table counts as unknown, and unknown is refused: whoever publishes says what holds, source by
source. Non-commercial and share-alike licences permit passing on; their conditions travel with the rows.
"""

from __future__ import annotations

import re

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
    plain = re.sub(r"\s+license$", "", re.sub(r"[\s_]+", "-", name.strip().lower()).replace("-license", " license"))
    plain = plain.replace("creative-commons-", "cc-").removesuffix(" license")
    if _FORBIDDEN.fullmatch(plain):
        return "forbidden"
    return "permitted" if _PERMITTED.fullmatch(plain) else "unknown"
