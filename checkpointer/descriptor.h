/*
 * descriptor.h: one descriptor of a frozen process, for collect_fds.c, collect_files.c and collect_ipc.c.
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
	long fs_type;    /* as statfs(2) has it */
	struct proc_fdinfo info;
};

/* ERR_UNSUPPORTED naming process, descriptor and object. */
int descriptor_refuse(const struct collected_process *p, const struct descriptor *d,
		      const char *what, struct err *err);

/* The very same open file description, in pawl (pidfd_getfd(2), Linux 5.6). -1 with err. */
int descriptor_fetch(const struct collected_process *p, int fd, struct err *err);
/* A descriptor of a process that has been described. NULL: it has none of that number. */
const Snap__Fd *find_number(const Snap__Process *m, int number);
/* A process and its number for an open file of the model. */
bool find_holder(const struct collection *c, size_t open_file, const struct collected_process **ret,
		 int *ret_fd);

/* What is behind a descriptor, but for its owner. After a failure o may be filled in part. */
int describe_open_file(struct collection *c, struct collected_process *p, struct descriptor *d,
		       Snap__OpenFile *o, struct err *err);
/* Each fills what is particular to its kind of object. */
int describe_pipe(struct collection *c, const struct collected_process *p,
		  const struct descriptor *d, Snap__OpenFile *o, struct err *err);
int describe_eventfd(const struct descriptor *d, Snap__OpenFile *o);
int describe_signalfd(const struct descriptor *d, Snap__OpenFile *o);
int describe_timerfd(const struct collected_process *p, const struct descriptor *d,
		     Snap__OpenFile *o, struct err *err);
int describe_mqueue(struct collection *c, const struct collected_process *p, const struct descriptor *d,
		    Snap__OpenFile *o, struct err *err);
/* Its watches follow in collect_watches. */
int describe_inotify(struct collection *c, const struct collected_process *p, const struct descriptor *d,
		     Snap__OpenFile *o, struct err *err);
int describe_epoll(const struct collected_process *p, const struct descriptor *d, Snap__OpenFile *o,
		   struct err *err);
/* With all descriptors known: of which descriptions those are. */
int relate_epolls(struct collection *c, struct err *err);
bool is_pty(const struct stat *st);
int describe_pty(struct collection *c, const struct collected_process *p, const struct descriptor *d,
		 Snap__OpenFile *o, struct err *err);
/* Pseudo-terminals, pidfds, FIFOs, O_PATH, namespaces and files of pseudo file systems. *ret_done: it was. */
int describe_special(struct collection *c, struct collected_process *p, const struct descriptor *d,
		     Snap__OpenFile *o, bool *ret_done, struct err *err);
/* F_SETOWN, F_SETSIG and leases: of any description. */
int describe_owner(struct collection *c, const struct collected_process *p, const struct descriptor *d,
		   Snap__OpenFile *o, struct err *err);
/* Another name of a file that was removed under the name it was opened by. 0 or -1. */
int find_other_name(const struct collection *c, const struct collected_process *p, const struct descriptor *d,
		    char *name, size_t len);
/* With all descriptors known: what is queued in pseudo-terminals, and whose they are. */
int collect_terminals(struct collection *c, struct err *err);
/* o NULL: only those that belong to the process. */
int describe_locks(const struct collection *c, struct collected_process *p, const struct descriptor *d,
		   Snap__OpenFile *o, struct err *err);
/* A thread's number in the capsule; 0: not in the job. */
int32_t vtid_of(const struct collection *c, pid_t tid);

/* What /proc shows of descriptor fd. */
int descriptor_read(const struct collected_process *p, int fd, struct descriptor *d, struct err *err);
/* The open file behind it: one that is known already, or described and added. */
int descriptor_open_file(struct collection *c, struct collected_process *p, struct descriptor *d,
			 int32_t *ret_id, struct err *err);
/* A file that is open for reading only. */
int describe_input(struct collection *c, const struct collected_process *p, int32_t file,
		   struct err *err);

/* A file that is mapped, and not written through that: another machine may have another one, or none. */
void describe_mapped(struct collection *c, int32_t file);

/* Whether it is one of those that the job has inherited. */
bool stat_is_inherited(const struct collection *c, const struct stat *st);
bool descriptor_inherited(const struct collection *c, const struct descriptor *d);

/* With all processes described: what inotify instances watch, by path. */
int collect_watches(struct collection *c, struct err *err);
/* A path, as the job sees it, of what is watched (find_watched.c); 0 or -1: none was found. */
int path_of_watched(const struct collection *c, const struct collected_process *p, const struct proc_watch *watch,
		 char *path, size_t len);

/* With all descriptors known: every pipe must have both its ends in the job. */
int check_both_ends(struct collection *c, struct err *err);

#endif
