# The CSI driver: one static program and the certificates of the world's authorities.
# docker build -f deploy/images/stash-csi.Dockerfile -t registry.example.org/stash-csi:0.1.0 .
FROM rust:1.95.0-bookworm AS build
# The toolchain that is there; the file asks for lints as well.
ENV RUSTUP_TOOLCHAIN=1.95.0
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    cargo build --release --locked -p stash-csi --bin stash-csi \
    && install -D target/*/release/stash-csi /out/usr/bin/stash-csi \
    && install -D -m 0644 /etc/ssl/certs/ca-certificates.crt /out/etc/ssl/certs/ca-certificates.crt

FROM scratch
COPY --from=build /out/ /
ENV PATH=/usr/bin
ENTRYPOINT ["/usr/bin/stash-csi"]
