"""What has to be computed for the package; everything else is in pyproject.toml."""

import re
import tomllib
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
CODE = re.compile(r"(^(?:```|~~~).*?^(?:```|~~~)$|`[^`\n]+`)", re.MULTILINE | re.DOTALL)
# A target in `[text](target)`, in `[name]: target`, and in an HTML attribute.
TARGET = re.compile(
    r"""(\]\(<?|^ {0,3}\[[^\]]+\]:\s+<?|\b(?:src|srcset|href|poster)=["'])([^\s"'()<>]+)""", re.MULTILINE
)
NOT_A_FILE = re.compile(r"[a-z][a-z0-9+.-]*:|//|#", re.IGNORECASE)
MEDIA = (".png", ".gif", ".webp", ".jpg", ".jpeg", ".svg", ".webm", ".mp4")


def relative_targets(readme: str) -> list[str]:
    """The files of the repository that a Markdown text links to or shows, as it names them."""
    parts = CODE.split(readme)[::2]
    return [found[2] for part in parts for found in TARGET.finditer(part) if not NOT_A_FILE.match(found[2])]


def with_absolute_links(readme: str, repository: str) -> str:
    """The Markdown text for a page that is not beside the repository's files, such as the package index's."""

    def absolute(found: re.Match[str]) -> str:
        before, target = found.groups()
        if NOT_A_FILE.match(target):
            return found[0]
        path = target.removeprefix("./")
        view = "raw" if path.partition("#")[0].lower().endswith(MEDIA) else "blob"
        return f"{before}{repository}/{view}/HEAD/{path}"

    # Every second part is code, which is shown as it is.
    parts = CODE.split(readme)
    parts[::2] = [TARGET.sub(absolute, part) for part in parts[::2]]
    return "".join(parts)


if __name__ == "__main__":
    project = tomllib.loads((HERE / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    setup(
        # The profiles lie beside the package in the repository, and are a part of it once installed.
        packages=[*find_packages(include=["eclipse_ws", "eclipse_ws.*"]), "eclipse_ws.conf"],
        long_description=with_absolute_links(
            (HERE / "README.md").read_text(encoding="utf-8"), project["urls"]["Repository"]
        ),
        long_description_content_type="text/markdown",
    )
