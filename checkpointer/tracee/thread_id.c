#include "checkpointer/tracee/thread_id.h"

#include "checkpointer/tracee/tracee.h"

#define WHY "which is lost where no capsule can be had"

/* struct robust_list_head (include/uapi/linux/futex.h); an empty list points to itself. */
static int check_robust_list(pid_t pid, const struct thread_id *t, struct err *err)
{
	uint64_t head[3];

	if (!t->robust_list)
		return 0;
	if (mem_read(pid, t->robust_list, head, sizeof(head), err) < 0)
		return err_wrap(err, "robust list");
	if (head[0] == t->robust_list && head[2] == 0)
		return 0;
	return err_set(
		err, ERR_UNSUPPORTED,
		"it holds a robust or priority-inheriting lock, which bears its number, " WHY);
}

int thread_id_check(pid_t pid, const struct thread_id *t, struct err *err)
{
	struct err unreadable;
	int32_t cached = 0;

	if (!t->clear_child_tid ||
	    mem_read(pid, t->clear_child_tid, &cached, sizeof(cached), &unreadable) < 0 ||
	    cached != t->tid)
		return err_set(err, ERR_UNSUPPORTED,
			       "its number is not where glibc keeps it, so it cannot be given "
			       "another one (a program of another C library or language), " WHY);
	return check_robust_list(pid, t, err);
}
