/*
 * cleanup.h: local resources that end with their scope.
 *
 *   cleanup_fd int fd = open(…);   closed at the end of the scope unless stolen
 *   return steal_fd(&fd);
 */
#ifndef PAWL_STORE_BASE_CLEANUP_H
#define PAWL_STORE_BASE_CLEANUP_H

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static inline void cleanup_free_p(void *p)
{
	free(*(void **)p);
}

/* Keeps errno: a failing path reports its own reason, not close's. */
static inline void cleanup_fd_p(int *fd)
{
	int saved = errno;

	if (*fd >= 0)
		close(*fd);
	errno = saved;
}

static inline void cleanup_file_p(FILE **f)
{
	if (*f)
		fclose(*f);
}

static inline void cleanup_dir_p(DIR **d)
{
	if (*d)
		closedir(*d);
}

#define cleanup_free __attribute__((cleanup(cleanup_free_p)))
#define cleanup_fd   __attribute__((cleanup(cleanup_fd_p)))
#define cleanup_file __attribute__((cleanup(cleanup_file_p)))
#define cleanup_dir  __attribute__((cleanup(cleanup_dir_p)))

static inline int steal_fd(int *fd)
{
	int stolen = *fd;

	*fd = -1;
	return stolen;
}

#define steal_ptr(pp)                       \
	({                                  \
		__typeof__(*(pp)) s_ = *(pp); \
		*(pp) = NULL;               \
		s_;                         \
	})

#endif
