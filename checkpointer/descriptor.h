/*
 * descriptor.h: one descriptor of a frozen process, for collect_files.c and collect_ipc.c.
 */
#ifndef PAWL_CHECKPOINTER_DESCRIPTOR_H
#define PAWL_CHECKPOINTER_DESCRIPTOR_H

#include <sys/stat.h>

#include "checkpointer/collect.h"

struct descriptor {
	int fd;
	char link[4096]; /* what /proc/PID/fd/N shows */
	char path[64];   /* /proc/PID/fd/N */
	struct stat st;
	struct proc_fdinfo info;
};

/* ERR_UNSUPPORTED naming process, descriptor and object. */
int descriptor_refuse(const struct collected_process *p, const struct descriptor *d,
		      const char *what, struct err *err);

/* Each fills what is particular to its kind of object. */
int describe_pipe(struct collection *c, const struct collected_process *p,
		  const struct descriptor *d, Snap__OpenFile *o, struct err *err);
int describe_eventfd(const struct descriptor *d, Snap__OpenFile *o);
int describe_signalfd(const struct descriptor *d, Snap__OpenFile *o);
int describe_timerfd(const struct collected_process *p, const struct descriptor *d,
		     Snap__OpenFile *o, struct err *err);
int describe_epoll(const struct collected_process *p, const struct descriptor *d, Snap__OpenFile *o,
		   struct err *err);
int describe_locks(struct collected_process *p, const struct descriptor *d, Snap__OpenFile *o,
		   struct err *err);

/* The very same open file description, in pawl (pidfd_getfd(2), Linux 5.6). -1 with err. */
int descriptor_fetch(const struct collected_process *p, int fd, struct err *err);

/* What /proc shows of descriptor fd. */
int descriptor_read(const struct collected_process *p, int fd, struct descriptor *d, struct err *err);
/* The open file behind it: one that is known already, or described and added. */
int descriptor_open_file(struct collection *c, struct collected_process *p, struct descriptor *d,
			 int32_t *ret_id, struct err *err);
/* A file that is open for reading only. */
int describe_input(struct collection *c, const struct collected_process *p, int32_t file,
		   struct err *err);

/* Whether it is one of those that the job has inherited. */
bool stat_is_inherited(const struct collection *c, const struct stat *st);
bool descriptor_inherited(const struct collection *c, const struct descriptor *d);

/* With all descriptors known: every pipe must have both its ends in the job. */
int check_both_ends(struct collection *c, struct err *err);

#endif
