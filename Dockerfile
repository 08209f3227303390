# The production image: locked dependencies, an unprivileged user, a root file system that may be read-only.
# `make image-test` builds it and starts it as a platform would.
ARG PYTHON=docker.io/library/python:3.11-slim-bookworm

FROM ${PYTHON} AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python3 -m venv /opt/eclipse
WORKDIR /src
# What changes seldom first, so that a change of the code builds one layer.
COPY requirements/build.txt requirements/runtime.txt requirements/
RUN /opt/eclipse/bin/pip install --no-deps --require-hashes -r requirements/build.txt \
 && /opt/eclipse/bin/pip install --no-deps --require-hashes --no-build-isolation --use-pep517 \
      -r requirements/runtime.txt
COPY setup.py pyproject.toml README.md ./
COPY conf conf
COPY eclipse_ws eclipse_ws
RUN /opt/eclipse/bin/pip install --no-deps --no-build-isolation . \
 && /opt/eclipse/bin/pip uninstall --yes --quiet setuptools pip \
 && find /opt/eclipse -type d '(' -name tests -o -name test ')' -prune -exec rm -rf {} + \
 && /opt/eclipse/bin/python -m compileall -q -j 0 /opt/eclipse/lib

FROM ${PYTHON} AS slim
COPY --from=build /opt/eclipse /opt/eclipse
# Nothing here is needed by a running server: installers, documents, other languages, Python's own tests.
RUN groupadd --gid 10001 eclipse \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin eclipse \
 && mkdir -p /srv/eclipse \
 && rm -rf /root/.cache /tmp/* /var/tmp/* /var/cache/* /var/lib/apt/lists/* /var/log/* \
      /usr/share/doc /usr/share/man /usr/share/info /usr/share/locale /usr/share/i18n /usr/share/bash-completion \
      /usr/share/perl* /usr/lib/*/perl* /usr/lib/*/gconv /usr/lib/apt /usr/lib/*/libapt* /var/lib/dpkg/info \
      /usr/share/python-wheels /usr/lib/python3/dist-packages/* /usr/share/zoneinfo /usr/share/common-licenses \
      /usr/bin/perl* /usr/bin/pip* /usr/local/bin/pip* /usr/bin/apt* /usr/bin/dpkg* /usr/bin/localedef /usr/bin/gpgv \
      /usr/lib/*/libgnutls* /usr/lib/*/libunistring* /usr/lib/*/libp11-kit* /usr/lib/*/libgcrypt* /usr/lib/*/libmvec* \
      /sbin/*e2fs* /sbin/*ext[234] /sbin/debugfs /sbin/*mkfs* /sbin/*fsck* \
 && for lib in /usr/lib/python3.* /usr/local/lib/python3.*; do \
      if [ -d "$lib" ]; then cd "$lib" && rm -rf test idlelib tkinter turtledemo lib2to3 ensurepip pydoc_data \
        distutils/tests unittest/test ctypes/test sqlite3/test config-3* site-packages/* dist-packages/*; fi; \
    done

# In one piece, so that what was removed is not in the image.
FROM scratch
COPY --from=slim / /
ENV PATH=/opt/eclipse/bin:/usr/local/bin:/usr/bin:/bin \
    LANG=C.UTF-8 PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 \
    NODE_ENV=production PORT=8080
WORKDIR /srv/eclipse
USER 10001:10001
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=5s --start-period=10s CMD ["eclipse-ws", "health"]
CMD ["eclipse-ws", "run"]
