#include "watchdog/jobname.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "store/base/cleanup.h"

#define NAME_MOST   80 /* leaves room for a number */
#define NUMBER_MOST 10000

static bool is_allowed(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
	       strchr("._+-", c);
}

void jobname_make(const char *command, unsigned number, char *buf, size_t len)
{
	const char *slash = strrchr(command, '/');
	const char *base = slash && slash[1] ? slash + 1 : command;
	char name[NAME_MOST + 1];
	size_t n = 0;

	for (; *base && n < NAME_MOST; base++) {
		char c = is_allowed(*base) ? *base : '-';

		if (n == 0 && (c == '-' || c == '.'))
			continue;
		name[n++] = c;
	}
	name[n] = '\0';
	if (number > 1)
		snprintf(buf, len, "%s-%u", n ? name : "job", number);
	else
		snprintf(buf, len, "%s", n ? name : "job");
}

bool jobname_same_command(const struct job_info *job, const void *ctx)
{
	const struct jobname_command *command = ctx;
	char *const *argv = command->argv;
	size_t i;

	for (i = 0; argv[i] && i < job->argc; i++)
		if (strcmp(argv[i], job->argv[i]) != 0)
			return false;
	return !argv[i] && i == job->argc && job->cwd && strcmp(job->cwd, command->cwd) == 0;
}

/* 1: it may be used, 0: it is another's, -1: error. */
static int may_use(struct store *store, const char *name, const struct jobname_claim *claim,
		   bool *ret_new, struct err *err)
{
	struct job_info job;
	bool same;

	*ret_new = false;
	if (store_job_get(store, name, &job, err) < 0) {
		*ret_new = err->kind == ERR_NOT_FOUND;
		return *ret_new ? 1 : -1;
	}
	same = claim->same(&job, claim->ctx);
	job_info_clear(&job);
	return same;
}

int jobname_take(struct store *store, const struct jobname_claim *claim, char *name, int *ret_lock,
		 bool *ret_new, struct err *err)
{
	unsigned number;

	for (number = 1; number < NUMBER_MOST; number++) {
		int usable;

		jobname_make(claim->command, number, name, 128);
		usable = may_use(store, name, claim, ret_new, err);
		if (usable < 0)
			return -1;
		if (usable && store_job_lock(store, name, ret_lock, err) == 0)
			return 0;
		if (usable && err->kind != ERR_BUSY)
			return -1;
	}
	return err_set(err, ERR_BUSY, "no name is left for '%s': give one with --name",
		       claim->command);
}
