# syntax=docker/dockerfile:1
# docker build --build-arg TORCH_VARIANT=cpu .      (or cu130, for NVIDIA devices)
# docker build --target training .                  (with the training program and its libraries)
# docker build --target torchserve .                (with the paths and commands of TorchServe's)

ARG PYTHON_VERSION=3.11

FROM python:${PYTHON_VERSION}-slim-bookworm AS build
ARG TORCH_VARIANT=cpu
WORKDIR /src
RUN python -m venv /opt/flambeau
ENV PATH=/opt/flambeau/bin:$PATH
COPY constraints.txt .
# The local version names the variant, so no other index can answer for it.
RUN torch="torch==$(sed -n 's/^torch==//p' constraints.txt)+${TORCH_VARIANT}" \
 && pip install --no-cache-dir -c constraints.txt \
      --extra-index-url "https://download.pytorch.org/whl/${TORCH_VARIANT}" "$torch"
RUN python -m venv /opt/build \
 && /opt/build/bin/pip install --no-cache-dir -c constraints.txt build hatchling
COPY pyproject.toml README.md LICENSE ./
COPY server server
COPY handlers handlers
RUN /opt/build/bin/python -m build --wheel --no-isolation --outdir /wheels \
 && pip install --no-cache-dir -c constraints.txt /wheels/*.whl

FROM python:${PYTHON_VERSION}-slim-bookworm AS base
RUN useradd --create-home --uid 1000 flambeau \
 && install --directory --owner=flambeau --group=flambeau /home/flambeau/model-store
WORKDIR /home/flambeau
ENV PATH=/opt/flambeau/bin:$PATH \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    NVIDIA_VISIBLE_DEVICES=all \
    PYTHONUNBUFFERED=1

FROM build AS build-training
RUN pip install --no-cache-dir -c constraints.txt "$(echo /wheels/*.whl)[train]"

FROM base AS training
COPY --from=build-training /opt/flambeau /opt/flambeau
COPY training training
USER 1000:1000
VOLUME /home/flambeau/model-store
CMD ["python", "-m", "training.train", "training/configs/digits_lenet.toml"]

FROM python:${PYTHON_VERSION}-slim-bookworm AS torchserve
RUN useradd --create-home --uid 1000 model-server \
 && install --directory --owner=model-server --group=model-server \
      /home/model-server/model-store /home/model-server/wf-store /home/model-server/tmp
WORKDIR /home/model-server
ENV PATH=/opt/flambeau/bin:$PATH \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    NVIDIA_VISIBLE_DEVICES=all \
    PYTHONUNBUFFERED=1 \
    TEMP=/home/model-server/tmp
COPY --from=build /opt/flambeau /opt/flambeau
COPY deploy/torchserve/bin /usr/local/bin
COPY --chown=1000:1000 deploy/torchserve/config.properties config.properties
USER 1000:1000
EXPOSE 7070 7071 8080 8081 8082
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s --retries=3 \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/livez', timeout=2)"]
ENTRYPOINT ["/usr/local/bin/dockerd-entrypoint.sh"]
CMD ["serve"]

FROM base AS runtime
LABEL org.opencontainers.image.title="Flambeau" \
      org.opencontainers.image.description="Serves PyTorch models: train, export, serve" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.source="https://github.com/flambeau/flambeau" \
      org.opencontainers.image.documentation="https://github.com/flambeau/flambeau/tree/main/docs"
COPY --from=build /opt/flambeau /opt/flambeau
COPY deploy/torchserve/bin/torch* /usr/local/bin/
# whoever publishes the container's port has said that others may ask its models
ENV FLAMBEAU_ALLOW_REMOTE_INFERENCE=true
USER 1000:1000
VOLUME /home/flambeau/model-store
EXPOSE 7070 8080 8081 8082
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s --retries=3 \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/livez', timeout=2)"]
# Management stays inside the container: who reaches it can run code. `docker exec` reaches it.
CMD ["flambeau", "serve", \
     "--model-store", "/home/flambeau/model-store", \
     "--inference-address", "0.0.0.0:8080", \
     "--management-address", "127.0.0.1:8081", \
     "--metrics-address", "0.0.0.0:8082", \
     "--grpc-inference-address", "0.0.0.0:7070"]
