#include "store/wire/convert.h"

#include <stdio.h>
#include <stdlib.h>

#define TEXTS_MOST 100000u

int wire_job_pack(const struct job_info *info, struct wire_job_message *ret, struct err *err)
{
	ProtobufCBinaryData *texts = calloc(info->argc + info->n_options + 1, sizeof(*texts));

	if (!texts)
		return err_sys(err, "job '%s'", info->name);
	for (size_t i = 0; i < info->argc; i++)
		texts[i] = wire_text(info->argv[i]);
	for (size_t i = 0; i < info->n_options; i++)
		texts[info->argc + i] = wire_text(info->options[i]);
	ret->texts = texts;
	ret->job = (Wire__Job)WIRE__JOB__INIT;
	ret->job.name = wire_text(info->name);
	ret->job.state = (uint32_t)info->state;
	ret->job.exit_status = info->exit_status;
	ret->job.created = info->created;
	ret->job.generation = info->generation;
	ret->job.first_generation = info->first_generation;
	ret->job.argv = texts;
	ret->job.n_argv = info->argc;
	ret->job.cwd = wire_text(info->cwd ? info->cwd : "");
	ret->job.options = texts + info->argc;
	ret->job.n_options = info->n_options;
	return 0;
}

/* malloc'ed; NULL where a zero byte is in it. */
static char *text_of(const ProtobufCBinaryData *data)
{
	if (data->len && memchr(data->data, 0, data->len))
		return NULL;
	return data->len ? strndup((const char *)data->data, data->len) : strdup("");
}

static char **texts_of(const ProtobufCBinaryData *from, size_t n, size_t *ret_n)
{
	char **list = n <= TEXTS_MOST ? calloc(n + 1, sizeof(*list)) : NULL;

	for (*ret_n = 0; list && *ret_n < n; (*ret_n)++)
		if (!(list[*ret_n] = text_of(&from[*ret_n])))
			break;
	return list;
}

int wire_job_unpack(const Wire__Job *job, struct job_info *ret, struct err *err)
{
	struct job_info info = {
		.state = job->state <= JOB_FAILED ? (enum job_state)job->state : JOB_FAILED,
		.exit_status = job->exit_status,
		.created = job->created,
		.generation = job->generation,
		.first_generation = job->first_generation,
		.cwd = text_of(&job->cwd),
		.argv = texts_of(job->argv, job->n_argv, &info.argc),
		.options = texts_of(job->options, job->n_options, &info.n_options),
	};
	char *name = text_of(&job->name);
	int rc = 0;

	snprintf(info.name, sizeof(info.name), "%s", name ? name : "");
	if (!info.cwd || !info.argv || !info.options || info.argc != job->n_argv ||
	    info.n_options != job->n_options || !name || strlen(name) >= sizeof(info.name))
		rc = err_set(err, ERR_CORRUPT, "the stream's record of the job is malformed");
	else if (job_name_check(info.name, err) < 0)
		rc = err_wrap(err, "in the stream");
	free(name);
	if (rc < 0)
		job_info_clear(&info);
	else
		*ret = info;
	return rc;
}

Wire__Head wire_head_pack(const struct snapshot_info *info)
{
	Wire__Head head = WIRE__HEAD__INIT;

	head.seq = info->seq;
	head.parent = info->parent;
	head.time = info->time;
	head.generation = info->generation;
	head.pause_us = info->pause_us;
	head.wall_us = info->wall_us;
	head.pages_resident = info->pages_resident;
	head.pages_candidate = info->pages_candidate;
	head.pages_changed = info->pages_changed;
	head.bytes_raw = info->bytes_raw;
	head.bytes_stored = info->bytes_stored;
	head.tracker = wire_text(info->tracker);
	head.final = info->final;
	head.processes = info->processes;
	head.threads = info->threads;
	return head;
}

void wire_head_unpack(const Wire__Head *head, struct snapshot_info *ret)
{
	size_t len = head->tracker.len;

	*ret = (struct snapshot_info){
		.seq = head->seq,
		.parent = head->parent,
		.time = head->time,
		.generation = head->generation,
		.pause_us = head->pause_us,
		.wall_us = head->wall_us,
		.pages_resident = head->pages_resident,
		.pages_candidate = head->pages_candidate,
		.pages_changed = head->pages_changed,
		.bytes_raw = head->bytes_raw,
		.bytes_stored = head->bytes_stored,
		.final = head->final,
		.processes = head->processes,
		.threads = head->threads,
	};
	if (len > sizeof(ret->tracker) - 1)
		len = sizeof(ret->tracker) - 1;
	if (len)
		memcpy(ret->tracker, head->tracker.data, len);
}

int wire_error_unpack(uint32_t kind, const ProtobufCBinaryData *text, struct err *err)
{
	int len = text->len < 400 ? (int)text->len : 400;

	return err_set(err, kind <= ERR_UNREACHABLE ? (enum err_kind)kind : ERR_SYSTEM, "%.*s", len,
		       text->len ? (const char *)text->data : "");
}
