# The service with the preset `tiny`, on the CPU:
# docker build -t streamgen . && docker run --network host --shm-size 512m streamgen
FROM python:3.11-slim

RUN useradd --create-home streamgen
WORKDIR /app

# torch first and from PyTorch's index of CPU builds: a layer of its own that changes seldom.
COPY constraints.txt .
RUN pip install --no-cache-dir -c constraints.txt --extra-index-url https://download.pytorch.org/whl/cpu torch

COPY pyproject.toml README.md LICENSE ./
COPY pipelines pipelines
COPY streamgen streamgen
COPY web web
RUN pip install --no-cache-dir -c constraints.txt ".[serve]"

USER streamgen
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=120s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/healthz', timeout=2)"]
# exec form: SIGTERM reaches the service itself.
ENTRYPOINT ["streamgen", "serve"]
CMD ["--host", "0.0.0.0", "--port", "8000"]
