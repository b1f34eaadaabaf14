# The image of the workers, beat and Flower. Postgres and the broker run in other containers.
FROM python:3.13-slim

# plugins of `llm`, by their names on PyPI: --build-arg LLM_PLUGINS="llm-mistral llm-gemini"
ARG LLM_PLUGINS=""

ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore \
    PIP_DISABLE_PIP_VERSION_CHECK=1

WORKDIR /src
COPY requirements-runtime.lock .
RUN pip install --require-hashes -r requirements-runtime.lock
COPY . .
RUN pip install --no-deps . && if [ -n "$LLM_PLUGINS" ]; then pip install $LLM_PLUGINS; fi

# Mount /llm: it has the API keys and the models of your own servers, and plugins store their data there.
ENV LLM_USER_PATH=/llm VECTOR_INDEX_HOME=/var/lib/vector-index
RUN useradd --create-home --uid 10001 worker && install --directory --owner worker /llm /var/lib/vector-index
USER worker
WORKDIR /home/worker
ENTRYPOINT ["vector-index"]
CMD ["worker"]
