/*
 * outlet.h: where a job's output goes, written without ever blocking pawl.
 *
 * O_NONBLOCK belongs to the open file description, which pawl shares with its caller: so it is not
 * set there. A pipe or terminal is opened anew; a socket is written with MSG_DONTWAIT; a regular
 * file as it is; what cannot be opened anew gets no more than a pipe surely takes after poll said
 * so (PIPE_BUF, pipe(7)).
 */
#ifndef PAWL_WATCHDOG_OUTLET_H
#define PAWL_WATCHDOG_OUTLET_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

enum outlet_kind { OUTLET_GONE, OUTLET_OWN, OUTLET_SOCKET, OUTLET_FILE, OUTLET_SHARED };

struct outlet {
	enum outlet_kind kind;
	int fd;
	int number; /* the caller's descriptor it stands for */
};

struct outlet outlet_open(int number);
/* Bytes taken, or -1: EAGAIN (poll fd for POLLOUT), or an error that means the reader is gone. */
ssize_t outlet_write(struct outlet *outlet, const void *data, size_t len);
void outlet_close(struct outlet *outlet);
/* Also the caller's descriptor, so that its reader sees the end of file; /dev/null takes its
 * number. */
void outlet_hang_up(struct outlet *outlet);

/* The caller's descriptor `number` for reading without blocking: an own one, or number itself. */
int inlet_open(int number);
void inlet_close(int fd, int number);

#endif
