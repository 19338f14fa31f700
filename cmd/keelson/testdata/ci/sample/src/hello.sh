#!/bin/sh
echo "hello, version @VERSION@: ${1:-nobody}"
