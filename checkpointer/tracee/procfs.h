/*
 * procfs.h: what /proc says of a process. Pure parsers of text (unit-tested, fuzzed) with a thin
 * reader beside each. proc(5) is the source of the formats.
 *
 * Parsers take NUL-terminated text, never trust it, and return ERR_CORRUPT naming the line.
 */
#ifndef PAWL_CHECKPOINTER_TRACEE_PROCFS_H
#define PAWL_CHECKPOINTER_TRACEE_PROCFS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "store/base/err.h"

/* One line of /proc/PID/maps or one block of /proc/PID/smaps. */
struct proc_map {
	uint64_t start, end, offset;
	uint32_t prot;      /* PROT_* */
	bool shared;
	uint32_t dev_major, dev_minor;
	uint64_t inode;
	char *name;         /* path, "[heap]", "[anon:x]", "" ; octal escapes undone; owned by the array */
	bool deleted;       /* " (deleted)" was there and is cut off */
	uint64_t vm_flags;  /* bits of enum proc_vm_flag; 0 from maps */
	uint64_t rss, swap; /* bytes; 0 from maps */
	uint32_t protection_key;
	uint32_t kernel_page_size; /* bytes; 0 from maps */
};

enum proc_vm_flag { /* the two-letter codes of smaps' VmFlags */
	VMF_GROWSDOWN = 1u << 0,   /* gd */
	VMF_NORESERVE = 1u << 1,   /* nr */
	VMF_LOCKED = 1u << 2,      /* lo */
	VMF_LOCKONFAULT = 1u << 3, /* lf */
	VMF_HUGETLB = 1u << 4,     /* ht */
	VMF_DONTFORK = 1u << 5,    /* dc */
	VMF_DONTDUMP = 1u << 6,    /* dd */
	VMF_WIPEONFORK = 1u << 7,  /* wf */
	VMF_HUGEPAGE = 1u << 8,    /* hg */
	VMF_NOHUGEPAGE = 1u << 9,  /* nh */
	VMF_MERGEABLE = 1u << 10,  /* mg */
	VMF_SEQUENTIAL = 1u << 11, /* sr */
	VMF_RANDOM = 1u << 12,     /* rr */
	VMF_UFFD_WP = 1u << 13,    /* uw */
	VMF_UFFD_MISSING = 1u << 14, /* um */
	VMF_UFFD_MINOR = 1u << 15, /* ui */
	VMF_SEALED = 1u << 16,     /* sl */
	VMF_DROPPABLE = 1u << 17,  /* dp */
	VMF_IO = 1u << 18,         /* io */
	VMF_PFNMAP = 1u << 19,     /* pf */
	VMF_ACCOUNT = 1u << 20,    /* ac */
	VMF_SHADOW_STACK = 1u << 21, /* ss */
	VMF_SOFTDIRTY = 1u << 22,  /* sd */
	VMF_MAYWRITE = 1u << 23,   /* mw: mprotect(2) may make it writable */
};

int proc_parse_maps(const char *text, struct proc_map **ret, size_t *ret_n, struct err *err);
int proc_parse_smaps(const char *text, struct proc_map **ret, size_t *ret_n, struct err *err);
int proc_read_maps(pid_t pid, bool smaps, struct proc_map **ret, size_t *ret_n, struct err *err);
void proc_maps_free(struct proc_map *maps, size_t n);

/* /proc/PID/stat; numbers as in proc(5). */
struct proc_stat {
	pid_t pid;
	char comm[64]; /* as printed: some kernels escape newline and backslash here, status always does */
	char state;
	pid_t ppid, pgid, sid;
	int tty_nr, tpgid;
	uint32_t flags;       /* PF_*, include/linux/sched.h */
	long nice;
	long num_threads;
	uint64_t start_time;  /* clock ticks after boot: pid plus this identifies a process */
	uint64_t start_code, end_code, start_stack;
	int exit_signal;
	unsigned rt_priority, policy;
	int processor;        /* CPU it last ran on */
	uint64_t start_data, end_data, start_brk, arg_start, arg_end, env_start, env_end;
	int exit_code;
};
/* A thread of the kernel's that shows among those of a process: it can be stopped, but makes no calls (Linux 5.12,
 * io_uring/io-wq.c, sqpoll.c). */
#define PROC_PF_IO_WORKER 0x00000010u
#define PROC_PF_KTHREAD	  0x00200000u
bool proc_is_kernel_thread(pid_t pid, pid_t tid);
int proc_parse_stat(const char *text, struct proc_stat *ret, struct err *err);
/* tid 0: of the process. */
int proc_read_stat(pid_t pid, pid_t tid, struct proc_stat *ret, struct err *err);

/* /proc/PID/status. */
struct proc_status {
	char name[64];
	char state;
	uint32_t umask;
	pid_t tgid, pid, ppid, tracer;
	uint32_t uid[4], gid[4];
	uint32_t *groups; /* malloc'ed */
	size_t n_groups;
	pid_t ns_pid, ns_pgid, ns_sid; /* innermost namespace (last number of NSpid/NSpgid/NSsid) */
	uint64_t sig_pending, shared_pending, blocked, ignored, caught;
	uint64_t cap_inh, cap_prm, cap_eff, cap_bnd, cap_amb;
	bool no_new_privs;
	int seccomp; /* 0 none, 1 strict, 2 filter */
	long threads;
	bool thp_enabled;
};
int proc_parse_status(const char *text, struct proc_status *ret, struct err *err);
/* tid 0: of the process. */
int proc_read_status(pid_t pid, pid_t tid, struct proc_status *ret, struct err *err);
/* /proc/PID/task, -1 with errno. */
int proc_open_task_dir(pid_t pid);
/* Of a thread, from there: half as long a way. */
int proc_read_thread_status(int task_dir, pid_t tid, struct proc_status *ret, struct err *err);
void proc_status_clear(struct proc_status *status);

/* /proc/PID/limits, index RLIMIT_*; "unlimited" is UINT64_MAX. */
#define PROC_N_LIMITS 16
struct proc_limit {
	uint64_t soft, hard;
};
int proc_parse_limits(const char *text, struct proc_limit ret[PROC_N_LIMITS], struct err *err);

enum proc_lock_kind { PROC_LOCK_POSIX, PROC_LOCK_FLOCK, PROC_LOCK_OFD, PROC_LOCK_LEASE };

/* A "lock:" line (fs/locks.c, lock_get_status). */
struct proc_lock {
	enum proc_lock_kind kind;
	bool write;
	int pid; /* who took it, as the reader's /proc numbers it; 0: it has ended */
	uint64_t start, end; /* end: last byte; UINT64_MAX: "EOF" */
};
#define PROC_MAX_LOCKS 64

/* /proc/PID/fdinfo/N, the fields every file has, and those of special files where present. */
struct proc_fdinfo {
	uint64_t pos;
	uint32_t flags;      /* O_* incl. O_CLOEXEC, as printed (octal) */
	uint64_t mnt_id, ino;
	bool has_eventfd, has_epoll, has_inotify, has_timerfd, has_signalfd, has_pidfd, has_lock;
	uint64_t eventfd_count;
	bool eventfd_semaphore; /* printed since Linux 6.7 */
	size_t n_locks;         /* may exceed PROC_MAX_LOCKS: then the rest is not in locks[] */
	struct proc_lock locks[PROC_MAX_LOCKS];
	uint64_t signalfd_mask;
	pid_t pidfd_pid;
};
int proc_parse_fdinfo(const char *text, struct proc_fdinfo *ret, struct err *err);
int proc_read_fdinfo(pid_t pid, int fd, struct proc_fdinfo *ret, struct err *err);

/* "tfd:" lines of an epoll instance's fdinfo (fs/eventpoll.c, ep_show_fdinfo). *ret malloc'ed. */
struct proc_epoll_entry {
	int fd;
	uint32_t events;
	uint64_t data;
	uint64_t inode; /* of the file watched */
};
int proc_read_epoll(pid_t pid, int fd, struct proc_epoll_entry **ret, size_t *ret_n, struct err *err);
int proc_parse_epoll(const char *text, struct proc_epoll_entry **ret, size_t *ret_n, struct err *err);

/* "inotify" lines of an inotify instance's fdinfo (fs/notify/fdinfo.c). *ret malloc'ed. */
#define PROC_MAX_HANDLE 128 /* MAX_HANDLE_SZ */
struct proc_watch {
	int wd;
	uint32_t mask;       /* IN_*; with IN_EXCL_UNLINK and IN_ONESHOT since Linux 5.19 */
	uint64_t inode;
	uint32_t major, minor;
	int handle_type;     /* struct file_handle; handle_bytes 0: none */
	unsigned handle_bytes;
	unsigned char handle[PROC_MAX_HANDLE];
};
int proc_parse_inotify(const char *text, struct proc_watch **ret, size_t *ret_n, struct err *err);
int proc_read_inotify(pid_t pid, int fd, struct proc_watch **ret, size_t *ret_n, struct err *err);

/* fdinfo of a timerfd (fs/timerfd.c, timerfd_show). Times in nanoseconds; value is what remains. */
struct proc_timerfd {
	int clock, settime_flags;
	uint64_t ticks, value, interval;
};
int proc_parse_timerfd(const char *text, struct proc_timerfd *ret, struct err *err);
int proc_read_timerfd(pid_t pid, int fd, struct proc_timerfd *ret, struct err *err);

/* /proc/PID/timers (CONFIG_CHECKPOINT_RESTORE, Linux 3.10). */
struct proc_timer {
	int id;
	int signal;
	uint64_t sigev_value;
	int notify;       /* SIGEV_*, with SIGEV_THREAD_ID folded in as the kernel prints "/tid." */
	pid_t target;     /* pid or tid in the reader's pid namespace */
	int clock;
};
int proc_parse_timers(const char *text, struct proc_timer **ret, size_t *ret_n, struct err *err);
int proc_read_timers(pid_t pid, struct proc_timer **ret, size_t *ret_n, struct err *err);

/* The line of a clock ("monotonic", "boottime") in /proc/PID/timens_offsets, nanoseconds; 0 where there is
 * none (kernel/time/namespace.c, proc_timens_show_offsets). */
int64_t proc_parse_clock_offset(const char *text, const char *clock);
/* How far CLOCK_MONOTONIC is ahead of ours, ns, for the children of `pid` (its own is the same but for the
 * process that made the namespace). 0 on kernels without time namespaces, and for one that is gone. */
int64_t proc_clock_lead(pid_t pid);

/* Numbers of the entries of /proc/PID/task or /proc/PID/fd, ascending, malloc'ed. */
int proc_list_numbers(pid_t pid, const char *sub, int **ret, size_t *ret_n, struct err *err);

/* "se.exec_start" of /proc/PID/task/TID/sched: when it last ran, ns on the scheduler's clock; 0 where
 * the kernel does not show it. */
uint64_t proc_parse_exec_start(const char *text);

#endif
