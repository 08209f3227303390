"""The npm package `eclipse-chat`: its files, its entries in Node, its types and its size."""

from __future__ import annotations

import gzip
import json
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from eclipse_ws import __version__
from tests import needs
from tests.npm_project import ROOT, run

HERE = Path(__file__).parent
WEB = ROOT / "web"
ENTRIES = ("eclipse-chat", "eclipse-chat/widget", "eclipse-chat/react")


def manifest() -> dict[str, object]:
    """What `package.json` says."""
    found: dict[str, object] = json.loads((WEB / "package.json").read_text())
    return found


def test_the_package_has_the_servers_version_and_repository() -> None:
    """Both packages are released together, from one repository."""
    locked = json.loads((WEB / "package-lock.json").read_text())
    assert manifest()["version"] == locked["version"] == locked["packages"][""]["version"] == __version__
    urls = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]
    assert manifest()["repository"] == {
        "type": "git",
        "url": f"git+{urls['Repository']}.git",
        "directory": "web",
    }


@pytest.mark.slow
def test_the_package_has_what_its_entries_need_and_nothing_else(project: Path) -> None:
    """Every file that `package.json` names is packed; sources, tools and local source maps are not."""
    package = project / "node_modules" / "eclipse-chat"
    found = {str(path.relative_to(package)) for path in package.rglob("*") if path.is_file()}
    named = set(re.findall(r'"\./([^"]+\.[a-z]+)"', json.dumps(manifest()["exports"])))
    assert named <= found
    # What entries share or load later has a hash in its name.
    kinds = re.compile(r"dist/react/\w+\.d\.ts|dist/\w+-[A-Z0-9]{8}\.js")
    rest = {name for name in found - named if not kinds.fullmatch(name)}
    assert rest == {"README.md", "dist/LICENSE"}


@pytest.mark.slow
def test_the_entries_share_one_client(project: Path) -> None:
    """A page that imports several entries loads the client once."""
    dist = project / "node_modules" / "eclipse-chat" / "dist"
    scripts = {path.name: path.read_text() for path in dist.glob("*.js")}
    holders = [name for name, code in scripts.items() if "ping" in code and "extends EventTarget" in code]
    assert len(holders) == 1
    for name in ("eclipse-chat.js", "widget.js", "react.js"):
        assert f'from "./{holders[0]}"' in scripts[name]


@pytest.mark.slow
def test_the_package_compares_no_builds(project: Path) -> None:
    """A bundler keeps the files together: none requests a reload, and no name of build.mjs is left."""
    dist = project / "node_modules" / "eclipse-chat" / "dist"
    code = "".join(path.read_text() for path in dist.glob("*.js"))
    assert not re.search(r"\bBUILD\b|SERVED_VIEW|Reload the page", code)


@pytest.mark.slow
@pytest.mark.parametrize("entry", ENTRIES)
def test_an_entry_can_be_imported_in_node(project: Path, entry: str) -> None:
    """When pages are rendered on a server, importing neither throws nor keeps the process alive."""
    code = f"const entry = await import('{entry}'); console.log(Object.keys(entry).sort().join())"
    names = run(project, needs.node(), "--input-type=module", "--eval", code).strip()
    assert names == {
        "eclipse-chat": "EclipseChat,connect",
        "eclipse-chat/widget": "EclipseChatElement",
        "eclipse-chat/react": "useEclipseChat,useWebSocketChat",
    }.get(entry)


@pytest.mark.slow
def test_hooks_render_on_a_server(project: Path) -> None:
    """Both hooks return their first state there, without a token, a socket or a warning."""
    code = """
        import { createElement } from "react";
        import { renderToString } from "react-dom/server";
        import { useEclipseChat, useWebSocketChat } from "eclipse-chat/react";
        globalThis.fetch = () => { throw new Error("asked for a token"); };
        const Page = () => {
            const { state, messages } = useEclipseChat({ tokenUrl: "/t", chatId: "1" });
            const { isConnected, error } = useWebSocketChat({ chatId: "1", enabled: true });
            const { state: off } = useEclipseChat({ tokenUrl: "/t", enabled: false });
            return JSON.stringify([state, messages.length, isConnected, error, off]);
        };
        console.log(renderToString(createElement(Page)).replaceAll("&quot;", ""));
    """
    for flags in ((), ("--conditions=production",)):
        printed = run(project, needs.node(), *flags, "--input-type=module", "--eval", code)
        assert printed == "[connecting,0,false,null,closed]\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("resolution", "module", "react"),
    [("bundler", "esnext", ""), ("node16", "node16", "-18"), ("node", "esnext", "-18")],
)
def test_types(project: Path, resolution: str, module: str, react: str) -> None:
    """`tsc --strict` accepts the declarations, their use and the README's code, in each resolution."""
    folder = project / f"types-{resolution}"
    folder.mkdir()
    (folder / "use.tsx").write_text((HERE / "package" / "use.tsx").read_text())
    for number, (language, code) in enumerate(readme_blocks()):
        (folder / f"readme{number}.{language}").write_text(code + "\nexport {};\n")
    types = f"../node_modules/@types/react{react}"
    (folder / "tsconfig.json").write_text(
        json.dumps(
            {
                "compilerOptions": {
                    "strict": True,
                    "noEmit": True,
                    "jsx": "react-jsx",
                    "target": "es2022",
                    "lib": ["es2022", "dom", "dom.iterable"],
                    "types": [],
                    "module": module,
                    "moduleResolution": resolution,
                    "paths": {"react": [types], "react/*": [f"{types}/*"]},
                }
            }
        )
    )
    tsc = project / "node_modules" / "typescript" / "bin" / "tsc"
    done = subprocess.run([needs.node(), tsc, "-p", folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
def test_the_elements_types_are_only_its_interface(project: Path) -> None:
    """They declare what a page sees, import the client's types, and reveal nothing of the implementation."""
    types = (project / "node_modules" / "eclipse-chat" / "dist" / "widget.d.ts").read_text()
    exported = re.findall(r"^export (?:interface|type|declare const) (\w+)", types, re.MULTILINE)
    names = {"EclipseChatElement", "EclipseChatElementEventMap", "ReceivedMessage", "Texts"}
    assert set(exported) == names
    assert re.findall(r"""from ['"](.+)['"]""", types) == ["eclipse-chat"]
    inner = r"#private|\w+Callback|observedAttributes|_base|Conversation|interface (?:EclipseChat|Failure)\b"
    assert not re.search(inner, types)
    # Every attribute's property says what it means.
    (block,) = re.findall(r"const DEFAULTS: {\n(.*?)^}", types, re.DOTALL | re.MULTILINE)
    assert re.fullmatch(r"(?:\t/\*\* .+ \*/\n\t\w+: \w+;\n){13}", block)


def readme_blocks() -> list[tuple[str, str]]:
    """The README's blocks of code that can be type-checked: (file ending, code)."""
    text = (WEB / "README.md").read_text()
    found = re.findall(r"^```(tsx|ts)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    assert found
    return found


@pytest.mark.slow
def test_the_hooks_are_at_most_2_kb(project: Path) -> None:
    """Minified, and without the client, `react.js` has at most 2,300 bytes gzipped."""
    script = project / "node_modules" / "eclipse-chat" / "dist" / "react.js"
    esbuild = project / "node_modules" / ".bin" / "esbuild"
    minified = run(project, str(esbuild), "--minify", "--format=esm", str(script))
    assert len(gzip.compress(minified.encode(), 9)) <= 2300
