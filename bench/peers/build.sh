#!/bin/sh
# Builds the etcd load generator offline from Debian's packages golang-go and golang-etcd-server-dev.
# Usage: build.sh OUTPUT
set -eu
here=$(cd "$(dirname "$0")" && pwd)
out=$(realpath -m "$1")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/src/etcd_load"
cp "$here/etcd_load.go" "$work/src/etcd_load/"
cd "$work/src/etcd_load"
GO111MODULE=off GOFLAGS=-buildvcs=false GOPATH="$work:/usr/share/gocode" go build -o "$out" etcd_load
