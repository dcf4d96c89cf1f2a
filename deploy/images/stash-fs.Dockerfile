# What Jobs run: one static program and the certificates of the world's authorities. The Job says which user it runs as.
# docker build -f deploy/images/stash-fs.Dockerfile -t registry.example.org/stash-fs:0.1.0 .
FROM rust:1.95.0-bookworm AS build
# The toolchain that is there; the file asks for lints as well.
ENV RUSTUP_TOOLCHAIN=1.95.0
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    cargo build --release --locked -p stash-fs --bin stash-fs \
    && install -D target/*/release/stash-fs /out/usr/bin/stash-fs \
    && install -D -m 0644 /etc/ssl/certs/ca-certificates.crt /out/etc/ssl/certs/ca-certificates.crt

FROM scratch
COPY --from=build /out/ /
ENV PATH=/usr/bin
ENTRYPOINT ["/usr/bin/stash-fs"]
