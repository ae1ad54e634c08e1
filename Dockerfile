# One static binary in an otherwise empty image.
FROM rust:1-slim AS build
WORKDIR /build
COPY Cargo.toml Cargo.lock openapi.yml ./
COPY src src
COPY packages/client packages/client
# A static glibc, for musl's allocator is slow. The target is named because
# only then the flag leaves build scripts and macros alone.
RUN target="$(rustc -vV | sed -n 's/^host: //p')" \
    && RUSTFLAGS="-C target-feature=+crt-static" \
       cargo build --release --locked --bin signal-http-heartbeat --target "$target" \
    && cp "target/$target/release/signal-http-heartbeat" /signal-http-heartbeat

FROM scratch
COPY --from=build /signal-http-heartbeat /signal-http-heartbeat
USER 65532:65532
EXPOSE 3000
# It finds the port that the server listens on, also if that was set by a flag.
HEALTHCHECK --interval=5s --timeout=5s --start-period=5s CMD ["/signal-http-heartbeat", "healthcheck"]
ENTRYPOINT ["/signal-http-heartbeat"]
