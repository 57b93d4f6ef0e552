# syntax=docker/dockerfile:1
FROM --platform=$BUILDPLATFORM golang:1.26-bookworm AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN --mount=type=cache,target=/go/pkg/mod go mod download
COPY . .
ARG TARGETOS TARGETARCH
ARG VERSION=dev
RUN --mount=type=cache,target=/go/pkg/mod --mount=type=cache,target=/root/.cache/go-build \
    CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH \
    go build -trimpath -ldflags "-s -w -X main.version=$VERSION" -o /out/archiver ./cmd/archiver

# distroless/static has certificates, time zones, a writable /tmp, and no shell.
FROM gcr.io/distroless/static-debian12:nonroot
ARG VERSION=dev
LABEL org.opencontainers.image.title="archiver" \
      org.opencontainers.image.description="Moves old PostgreSQL audit rows to S3, verifies each object, then deletes exactly those rows" \
      org.opencontainers.image.source="https://github.com/audit-table-archiver/archiver" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="$VERSION"
COPY --from=build /out/archiver /usr/local/bin/archiver
COPY LICENSE /usr/share/doc/archiver/LICENSE
# As a number, so that Kubernetes can check runAsNonRoot.
USER 65532:65532
# The spool of each batch at work lies in /tmp as an unlinked file: up to
# worker.concurrency times max_batch_bytes, compressed. With a read-only root file
# system, mount a volume or a tmpfs of that size here.
VOLUME /tmp
# SIGTERM lets running batches end, within worker.shutdown_timeout.
STOPSIGNAL SIGTERM
# Of a worker: its lease is held. Turn it off for other commands, which serve no health
# (--no-healthcheck). Kubernetes ignores this and asks /healthz itself.
HEALTHCHECK --interval=10s --timeout=6s --start-period=20s --retries=3 CMD ["/usr/local/bin/archiver", "health"]
ENTRYPOINT ["/usr/local/bin/archiver"]
CMD ["work"]
