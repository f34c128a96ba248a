# thaw in a container, on the CPU. In a copy of the project:
#     docker build -t thaw .
#     docker run --rm -v "$PWD:/work" -v thaw-cache:/cache thaw study images
#     docker run --rm -v "$PWD:/work" -p 127.0.0.1:8765:8765 thaw serve RUN --host 0.0.0.0
# For an NVIDIA GPU, with torch as the package index has it:
#     docker build -t thaw --build-arg TORCH_INDEX=https://pypi.org/simple .
#     docker run --rm --gpus all -v "$PWD:/work" -v thaw-cache:/cache thaw study images
FROM python:3.11-slim
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
COPY . /src
RUN pip install --no-cache-dir -c /src/constraints.txt --extra-index-url "$TORCH_INDEX" "/src[serve,export]" && rm -rf /src
ENV THAW_CACHE=/cache
WORKDIR /work
ENTRYPOINT ["thaw"]
