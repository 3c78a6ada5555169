#!/bin/bash
# ffmpeg: generated video through a pipe into an encoder with threads. Usage: video.sh SECONDS
set -euo pipefail
ffmpeg -v error -nostdin -f lavfi -i "testsrc2=duration=$1:size=320x240:rate=25" -f rawvideo -pix_fmt yuv420p - |
	ffmpeg -v error -f rawvideo -s 320x240 -r 25 -pix_fmt yuv420p -i - -c:v mpeg4 -threads 3 \
		-fflags +bitexact -flags:v +bitexact -f avi -y out.avi
sha256sum out.avi
