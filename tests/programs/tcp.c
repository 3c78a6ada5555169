/*
 * tcp.c: holds a TCP connection to a peer outside the job while it counts, and ends it half-way.
 * Usage: tcp PORT STEPS STEP_MS
 */
#include "target.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	if (argc != 4)
		return 2;
	struct sockaddr_in peer = {
		.sin_family = AF_INET,
		.sin_port = htons((uint16_t)atoi(argv[1])),
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK),
	};
	long steps = atol(argv[2]), step_ms = atol(argv[3]);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	setvbuf(stdout, NULL, _IOLBF, 0);
	CHECK(fd >= 0 && connect(fd, (struct sockaddr *)&peer, sizeof(peer)) == 0);
	for (long i = 1; i <= steps; i++) {
		printf("step %ld %016llx\n", i, (unsigned long long)mix64((uint64_t)i));
		sleep_ms(step_ms);
		if (i == steps / 2)
			close(fd);
	}
	puts("PASS");
	return 0;
}
