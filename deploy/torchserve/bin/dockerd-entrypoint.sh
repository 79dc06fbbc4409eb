#!/bin/sh
# What the container runs: `serve` (the default), or any command. The server is the container's
# first process, so that stopping the container lets requests finish.
set -eu

home=/home/model-server
case "${1:-serve}" in
serve)
    [ "$#" -eq 0 ] || shift
    exec torchserve --start --foreground --ts-config "$home/config.properties" \
        --disable-token-auth "$@"
    ;;
torchserve)
    shift
    exec torchserve --foreground "$@"  # in the background it would take the container with it
    ;;
*)
    exec "$@"
    ;;
esac
