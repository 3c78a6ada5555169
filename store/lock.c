#include "store/lock.h"

#include <errno.h>
#include <time.h>

static struct flock one_byte(uint64_t byte, short type)
{
	return (struct flock){
		.l_type = type,
		.l_whence = SEEK_SET,
		.l_start = (off_t)byte,
		.l_len = 1,
	};
}

int lock_byte(int fd, uint64_t byte, short type)
{
	struct flock fl = one_byte(byte, type);

	if (fcntl(fd, F_OFD_SETLK, &fl) == 0)
		return 1;
	return errno == EAGAIN || errno == EACCES ? 0 : -1;
}

int lock_byte_wait(int fd, uint64_t byte, short type, int timeout_ms)
{
	const struct timespec step = {.tv_nsec = 10 * 1000 * 1000};
	int waited = 0;

	for (;;) {
		int rc = lock_byte(fd, byte, type);

		if (rc != 0 || (timeout_ms >= 0 && waited >= timeout_ms))
			return rc;
		nanosleep(&step, NULL);
		waited += 10;
	}
}

int lock_byte_held(int fd, uint64_t byte)
{
	struct flock fl = one_byte(byte, F_WRLCK);

	if (fcntl(fd, F_OFD_GETLK, &fl) < 0)
		return -1;
	return fl.l_type != F_UNLCK;
}
