FROM python:3.12-slim AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY swapper_proxy swapper_proxy
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /dist . \
    && python -m venv /opt/swapper \
    && /opt/swapper/bin/pip install --no-cache-dir /dist/*.whl

FROM python:3.12-slim
COPY --from=build /opt/swapper /opt/swapper
COPY config/swapper_config.yaml /etc/swapper/swapper_config.yaml
ENV PATH=/opt/swapper/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    SWAPPER_CONFIG_PATH=/etc/swapper/swapper_config.yaml \
    SWAPPER_HOST=0.0.0.0 \
    SWAPPER_PORT=8890
USER 10001:10001
EXPOSE 8890
HEALTHCHECK --interval=30s --timeout=5s --start-period=15s \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen(f'http://127.0.0.1:{os.environ[\"SWAPPER_PORT\"]}/health', timeout=4)"]
CMD ["swapper-proxy", "serve"]
