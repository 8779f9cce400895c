ARG PYTHON=python:3.12.12-slim-bookworm

FROM ${PYTHON} AS build
WORKDIR /var/lib/swapper-proxy
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY swapper_proxy swapper_proxy
# No compiler: what has no wheel for this platform stops the build
RUN python -m pip wheel --no-cache-dir --no-deps --wheel-dir /dist . \
    && python -m venv /opt/swapper \
    && /opt/swapper/bin/python -m pip install --no-cache-dir --only-binary :all: /dist/*.whl \
    && /opt/swapper/bin/python -m pip uninstall --yes pip

FROM ${PYTHON}
LABEL org.opencontainers.image.title="Swapper Proxy" \
      org.opencontainers.image.description="A proxy in front of Ollama that swaps models seldom, starves nobody and shows everything" \
      org.opencontainers.image.licenses="MIT"
COPY --from=build /opt/swapper /opt/swapper
COPY config/swapper_config.yaml /etc/swapper/swapper_config.yaml
# Empty: a new volume that is mounted there takes its owner from it
COPY --from=build --chown=10001:10001 /var/lib/swapper-proxy /var/lib/swapper-proxy
ENV PATH=/opt/swapper/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    SWAPPER_CONFIG_PATH=/etc/swapper/swapper_config.yaml \
    XDG_STATE_HOME=/var/lib \
    SWAPPER_HOST=0.0.0.0 \
    SWAPPER_PORT=8890
USER 10001:10001
EXPOSE 8890
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=15s \
    CMD ["swapper-proxy", "health"]
CMD ["swapper-proxy", "serve"]
