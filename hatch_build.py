"""The page of a package index: the README, with links that work there.

An index shows the text alone. With a `repository` in pyproject.toml its links and figures lead
there, at the tag of the version; without one links are their text and figures are left out.
"""

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)]+)\)")


class IndexPage(MetadataHookInterface):
    PLUGIN_NAME = "custom"

    def update(self, metadata: dict[str, Any]) -> None:
        repository = self.config.get("repository", "")
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        page = index_page(text, repository, metadata["version"])
        metadata["readme"] = {"content-type": "text/markdown", "text": page}
        metadata["urls"] = urls(repository)


def urls(repository: str) -> dict[str, str]:
    if not repository:
        return {}
    named = {"Source": "", "Documentation": "#readme", "Issues": "/issues"}
    changes = {"Changelog": "/blob/main/CHANGELOG.md"}
    return {name: repository + path for name, path in (named | changes).items()}


def index_page(text: str, repository: str, version: str) -> str:
    """`text` with absolute links, or none that are relative."""

    def absolute(found: re.Match[str]) -> str:
        image, label, target = found.groups()
        if target.startswith(("http://", "https://", "#")):
            return found[0]
        if repository:
            kind = "raw" if image else "blob"
            return f"{image}[{label}]({repository}/{kind}/v{version}/{target})"
        return "" if image else label

    return _LINK.sub(absolute, text)
