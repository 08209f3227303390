# The production image: locked dependencies, an unprivileged user, a root file system that may be read-only.
# `make image` builds it with its labels; `make image-test` builds it and starts it as a platform would.
#
# Three layers, by how often they change: the base, the dependencies, the code. Each has the same bytes whenever and
# wherever it is built from the same files, so that only changed layers are sent to a registry or a machine.
#
# The digest is that of the tag's index, for all architectures; update both together.
ARG PYTHON=docker.io/library/python:3.11-slim-bookworm@sha256:528257d48c1da0dcecc2e725d1ae34498d60c965f1241e39cd6a85a8859bdf84

FROM ${PYTHON} AS base
# Removed: what a running server does not need. Installers, documentation, other languages, Python's own tests.
# Compiled: the standard library, which is impossible once the root file system is read-only. By hash, because times change.
# Copied: so that every build has the same times (including the password's age), and no files that an engine adds.
RUN SOURCE_DATE_EPOCH=1 groupadd --gid 10001 eclipse \
 && SOURCE_DATE_EPOCH=1 useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent \
      --shell /usr/sbin/nologin eclipse \
 && mkdir -p /srv/eclipse /opt/eclipse \
 && for lib in /usr/lib/python3.* /usr/local/lib/python3.*; do \
      if [ -d "$lib" ]; then cd "$lib" && rm -rf test idlelib tkinter turtledemo lib2to3 ensurepip pydoc_data \
        distutils/tests unittest/test ctypes/test sqlite3/test config-3* site-packages/* dist-packages/* \
        && find . -name '*.pyc' -delete \
        && python3 -m compileall -q -j 0 --invalidation-mode unchecked-hash "$lib"; fi; \
    done \
 && rm -rf /root/.cache /tmp/* /var/tmp/* /var/cache/* /var/lib/apt/lists/* /var/log/* /etc/*- \
      /usr/share/doc /usr/share/man /usr/share/info /usr/share/locale /usr/share/i18n /usr/share/bash-completion \
      /usr/share/perl* /usr/lib/*/perl* /usr/lib/*/gconv /usr/lib/apt /usr/lib/*/libapt* /var/lib/dpkg/info \
      /usr/share/python-wheels /usr/lib/python3/dist-packages/* /usr/share/zoneinfo /usr/share/common-licenses \
      /usr/bin/perl* /usr/bin/pip* /usr/local/bin/pip* /usr/bin/apt* /usr/bin/dpkg* /usr/bin/localedef /usr/bin/gpgv \
      /usr/lib/*/libgnutls* /usr/lib/*/libunistring* /usr/lib/*/libp11-kit* /usr/lib/*/libgcrypt* /usr/lib/*/libmvec* \
      /sbin/*e2fs* /sbin/*ext[234] /sbin/debugfs /sbin/*mkfs* /sbin/*fsck* \
 && mkdir /image \
 && tar --create --directory=/ --one-file-system --mtime=@1 --exclude=./image \
      --exclude='./run/*' --exclude=./etc/hostname --exclude=./etc/hosts --exclude=./etc/resolv.conf . \
      | tar --extract --directory=/image

FROM ${PYTHON} AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
RUN python3 -m venv /opt/eclipse
WORKDIR /src
COPY requirements/build.txt requirements/runtime.txt requirements/
RUN /opt/eclipse/bin/pip install --no-deps --require-hashes -r requirements/build.txt \
 && /opt/eclipse/bin/pip install --no-deps --require-hashes --no-build-isolation --use-pep517 \
      -r requirements/runtime.txt

FROM build AS dependencies
RUN /opt/eclipse/bin/pip uninstall --yes --quiet setuptools pip \
 && cd /opt/eclipse \
 && find . -type d '(' -name tests -o -name test -o -name __pycache__ ')' -prune -exec rm -rf {} + \
 && bin/python -m compileall -q -j 0 --invalidation-mode unchecked-hash "$PWD/lib" \
 && mkdir -p /image/opt && mv /opt/eclipse /image/opt \
 && find /image -exec touch --no-dereference --date=@1 {} +

FROM build AS code
COPY setup.py pyproject.toml README.md LICENSE ./
COPY conf conf
COPY eclipse_ws eclipse_ws
RUN /opt/eclipse/bin/pip install --no-deps --no-build-isolation --no-compile --root /image . \
 && /opt/eclipse/bin/python -m compileall -q -s /image -p / --invalidation-mode unchecked-hash /image

# Each stage leaves in /image what it adds. The base is copied too, so that removed files aren't in the image.
FROM scratch
COPY --from=base /image /
COPY --from=dependencies /image /
COPY --from=code /image /
ENV PATH=/opt/eclipse/bin:/usr/local/bin:/usr/bin:/bin \
    LANG=C.UTF-8 PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 \
    NODE_ENV=production PORT=8080
WORKDIR /srv/eclipse
USER 10001:10001
EXPOSE 8080
STOPSIGNAL SIGTERM
# Only liveness: a server whose Redis is unavailable must not be restarted, because it holds events that are nowhere else.
HEALTHCHECK --interval=15s --timeout=5s --start-period=10s CMD ["eclipse-ws", "health", "--live"]
CMD ["eclipse-ws", "run"]
# Set by `make image`, from scripts/image_labels.py.
ARG SOURCE VERSION REVISION CREATED
LABEL org.opencontainers.image.title="eclipse-ws" \
      org.opencontainers.image.description="The real-time server of a support centre's chat, with a pluggable pub/sub backend" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.source="${SOURCE}" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}"
