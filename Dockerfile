# The image of the product. Its install steps are deploy/install.sh, which a test runs without Docker.
FROM python:3.11-slim-bookworm AS build
WORKDIR /source
COPY pyproject.toml README.md ./
COPY requirements/ requirements/
COPY deploy/install.sh deploy/install.sh
COPY policies/ policies/
COPY optimizer/ optimizer/
COPY proxy/ proxy/
RUN sh deploy/install.sh /source /opt/llm-optimizer

FROM python:3.11-slim-bookworm
RUN useradd --system --uid 10001 --home-dir /var/lib/llm-optimizer --create-home llm-optimizer \
    && chmod 700 /var/lib/llm-optimizer
COPY --from=build /opt/llm-optimizer /opt/llm-optimizer
ENV PATH=/opt/llm-optimizer/bin:$PATH PYTHONUNBUFFERED=1
USER llm-optimizer
WORKDIR /var/lib/llm-optimizer
EXPOSE 8080
VOLUME /var/lib/llm-optimizer
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/health/ready', timeout=2)"]
ENTRYPOINT ["llm-optimizer"]
CMD ["serve", "--host", "0.0.0.0", "--state-dir", "/var/lib/llm-optimizer/state"]
