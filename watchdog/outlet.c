#include "watchdog/outlet.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

static int open_anew(int number, int mode)
{
	char path[32];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", number);
	return open(path, mode | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
}

/* A regular file's offset is its description's: an own one would write over what is there. */
static bool wants_own(const struct stat *st)
{
	return S_ISFIFO(st->st_mode) || S_ISCHR(st->st_mode);
}

struct outlet outlet_open(int number)
{
	struct outlet outlet = {.kind = OUTLET_SHARED, .fd = number, .number = number};
	struct stat st;
	int fd;

	if (fstat(number, &st) < 0) {
		outlet.kind = OUTLET_GONE;
		outlet.fd = -1;
		return outlet;
	}
	if (S_ISSOCK(st.st_mode))
		outlet.kind = OUTLET_SOCKET;
	if (S_ISREG(st.st_mode))
		outlet.kind = OUTLET_FILE;
	if (wants_own(&st) && (fd = open_anew(number, O_WRONLY)) >= 0) {
		outlet.kind = OUTLET_OWN;
		outlet.fd = fd;
	}
	return outlet;
}

ssize_t outlet_write(struct outlet *outlet, const void *data, size_t len)
{
	ssize_t n;

	do {
		switch (outlet->kind) {
		case OUTLET_OWN:
		case OUTLET_FILE:
			n = write(outlet->fd, data, len);
			break;
		case OUTLET_SOCKET:
			n = send(outlet->fd, data, len, MSG_DONTWAIT | MSG_NOSIGNAL);
			break;
		case OUTLET_SHARED:
			n = write(outlet->fd, data, len < PIPE_BUF ? len : PIPE_BUF);
			break;
		case OUTLET_GONE:
		default:
			errno = EPIPE;
			return -1;
		}
	} while (n < 0 && errno == EINTR);
	return n;
}

void outlet_close(struct outlet *outlet)
{
	if (outlet->kind == OUTLET_OWN)
		close(outlet->fd);
	outlet->kind = OUTLET_GONE;
	outlet->fd = -1;
}

static void give_null(int number)
{
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	if (null < 0)
		return;
	dup3(null, number, O_CLOEXEC);
	close(null);
}

void outlet_hang_up(struct outlet *outlet)
{
	if (outlet->kind == OUTLET_GONE)
		return;
	outlet_close(outlet);
	give_null(outlet->number);
}

int inlet_open(int number)
{
	struct stat st;
	int fd = -1;

	if (fstat(number, &st) == 0 && wants_own(&st))
		fd = open_anew(number, O_RDONLY);
	return fd >= 0 ? fd : number;
}

void inlet_close(int fd, int number)
{
	if (fd >= 0 && fd != number)
		close(fd);
	give_null(number);
}
