/*
 * Files that the job only reads.
 *
 * What it has written itself before (a temporary file that it merges, the result of an earlier
 * step) belongs to it like what it writes now. Anything else is input: by default it must be there,
 * and is found changed with a warning; --files rules with a pattern can say more. What it has mapped it
 * relies on page by page: that is kept with its content, and must be there unchanged where it is too large.
 */
#include <fnmatch.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "checkpointer/collect.h"
#include "checkpointer/descriptor.h"
#include "store/base/io.h"
#include "store/base/units.h"

/* Larger ones are input, whoever wrote them. */
#define OWN_MOST (1ull << 30)
/* Locales, fonts, modules of a virtual machine; larger ones are data, which must be there. */
#define MAPPED_MOST (256ull << 20)

uint64_t collect_job_start(const struct collection *c)
{
	uint64_t boot = clock_ns(CLOCK_REALTIME) - clock_ns(CLOCK_BOOTTIME), start = UINT64_MAX;
	uint64_t tick = NSEC_PER_SEC / (uint64_t)sysconf(_SC_CLK_TCK);

	if (c->config->job_start)
		return c->config->job_start;
	for (size_t i = 0; i < c->n; i++)
		if (c->processes[i].frozen->stat.start_time * tick < start)
			start = c->processes[i].frozen->stat.start_time * tick;
	return boot + start;
}

static bool is_own(const struct collection *c, const struct collected_process *p,
		   const Snap__File *f)
{
	uint64_t most = c->config->file_size_limit ? c->config->file_size_limit : OWN_MOST;

	return f->mtime >= c->model->clocks->job_start && f->size <= most &&
	       p->model->credentials && p->model->credentials->n_uid == 4 &&
	       f->uid == p->model->credentials->uid[1];
}

static const struct file_rule *rule_for(const struct collection *c, const char *path)
{
	const struct file_rule *rule = NULL;

	for (size_t i = 0; i < c->config->n_rules; i++)
		if (c->config->rules[i].glob && fnmatch(c->config->rules[i].glob, path, 0) == 0)
			rule = &c->config->rules[i];
	return rule;
}

static void apply_rule(const struct file_rule *rule, const struct file_source *source,
		       Snap__File *f)
{
	if (!rule) {
		if (!source->mapped)
			f->policy = SNAP__FILE__POLICY__INPUT;
		return;
	}
	switch (rule->policy) {
	case FILES_SAVE:
		f->content = true;
		return;
	case FILES_FAIL:
		return;
	case FILES_TRUNCATE:
	case FILES_LEAVE:
		f->policy = SNAP__FILE__POLICY__LEAVE;
		return;
	}
}

int describe_input(struct collection *c, const struct collected_process *p, int32_t file,
		   struct err *err)
{
	Snap__File *f = c->model->files[file];

	if (f->kind != SNAP__FILE__KIND__REGULAR || f->in_tree || f->content ||
	    f->policy != SNAP__FILE__POLICY__IDENTITY)
		return 0;
	if (!is_own(c, p, f)) {
		apply_rule(rule_for(c, f->path), &c->sources[file], f);
		return 0;
	}
	if (file_table_own(c, file, err) < 0)
		return -1;
	c->sources[file].late = f->policy == SNAP__FILE__POLICY__RESTORE;
	return 0;
}

void describe_mapped(struct collection *c, int32_t file)
{
	Snap__File *f = c->model->files[file];

	if (f->kind != SNAP__FILE__KIND__REGULAR || f->in_tree || f->content ||
	    f->policy != SNAP__FILE__POLICY__IDENTITY || f->size > MAPPED_MOST || rule_for(c, f->path))
		return;
	f->content = true;
	c->sources[file].beside = true;
}
