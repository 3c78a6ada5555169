#include "tools/report.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "store/base/cleanup.h"
#include "store/base/units.h"

const char *report_time(uint64_t ns, char *buf, size_t len)
{
	time_t seconds = (time_t)(ns / NSEC_PER_SEC);
	struct tm tm;
	char date[32];

	if (!gmtime_r(&seconds, &tm))
		return memcpy(buf, "?", 2);
	strftime(date, sizeof(date), "%Y-%m-%dT%H:%M:%S", &tm);
	snprintf(buf, len, "%s.%06uZ", date, (unsigned)(ns % NSEC_PER_SEC / 1000));
	return buf;
}

const char *report_age(uint64_t now_ns, uint64_t ns, char *buf, size_t len)
{
	if (ns == 0)
		return memcpy(buf, "-", 2);
	return format_duration(now_ns > ns ? now_ns - ns : 0, buf, len);
}

json_t *report_bytes(const char *data, size_t len)
{
	cleanup_free char *safe = NULL;
	json_t *value = json_stringn(data, len);
	char *to;

	if (value)
		return value;
	if (!(to = safe = malloc(4 * len + 1)))
		return json_null();
	for (const char *end = data + len; data < end; data++) {
		if ((unsigned char)*data < 0x80)
			*to++ = *data;
		else
			to += sprintf(to, "\\x%02x", (unsigned char)*data);
	}
	return json_stringn(safe, (size_t)(to - safe));
}

json_t *report_text(const char *text)
{
	return report_bytes(text, strlen(text));
}

static json_t *number(uint64_t value)
{
	return json_integer((json_int_t)value);
}

json_t *report_snapshot(const struct snapshot_info *info)
{
	json_t *o = json_object();
	char time[40];

	json_object_set_new(o, "job", report_text(info->job));
	json_object_set_new(o, "seq", number(info->seq));
	json_object_set_new(o, "time",
			    info->time ? json_string(report_time(info->time, time, sizeof(time)))
				       : json_null());
	json_object_set_new(o, "pause_us", number(info->pause_us));
	json_object_set_new(o, "wall_us", number(info->wall_us));
	json_object_set_new(o, "pages_resident", number(info->pages_resident));
	json_object_set_new(o, "pages_candidate", number(info->pages_candidate));
	json_object_set_new(o, "pages_changed", number(info->pages_changed));
	json_object_set_new(o, "bytes_raw", number(info->bytes_raw));
	json_object_set_new(o, "bytes_stored", number(info->bytes_stored));
	json_object_set_new(o, "parent", info->parent ? number(info->parent) : json_null());
	json_object_set_new(o, "tracker", report_text(info->tracker));
	json_object_set_new(o, "generation", number(info->generation));
	json_object_set_new(o, "final", json_boolean(info->final));
	json_object_set_new(o, "processes", number(info->processes));
	json_object_set_new(o, "threads", number(info->threads));
	return o;
}

json_t *report_interval(const struct job_status *status)
{
	const struct interval_choice *c = &status->interval;
	json_t *o = json_object();
	char text[256];

	json_object_set_new(o, "seconds",
			    c->interval_ns ? json_real((double)c->interval_ns / 1e9) : json_null());
	json_object_set_new(o, "reason", json_string(interval_reason_name(c->reason)));
	json_object_set_new(o, "text", json_string(interval_text(c, text, sizeof(text))));
	if (c->reason != INTERVAL_FIXED) {
		json_object_set_new(o, "cost_seconds", json_real(c->cost_s));
		json_object_set_new(o, "cost_measured", json_boolean(c->measured));
		json_object_set_new(o, "mtbf_seconds", json_real(c->mtbf_s));
	}
	json_object_set_new(o, "next_seconds",
			    status->next_ns == UINT64_MAX ? json_null()
							  : json_real((double)status->next_ns / 1e9));
	return o;
}

void report_print(json_t *value)
{
	json_dumpf(value, stdout, JSON_INDENT(2) | JSON_PRESERVE_ORDER);
	putchar('\n');
	json_decref(value);
}

const char *report_state(struct store *store, const struct job_info *job)
{
	switch (job->state) {
	case JOB_NEW:
		return "new";
	case JOB_RUNNING:
		if (!store_job_is_locked(store, job))
			return "crashed";
		return job->leader_pid ? "running" : "recovering";
	case JOB_STOPPED:
		return "stopped";
	case JOB_FINISHED:
		return "finished";
	case JOB_FAILED:
		return "failed";
	}
	return "unknown";
}

json_t *report_places(const struct replica_state *states, size_t n, uint64_t time,
		      uint64_t generation, bool here)
{
	json_t *places = json_array();

	if (here)
		json_array_append_new(places, json_string("here"));
	for (size_t i = 0; i < n; i++)
		if (replica_state_has(&states[i], time, generation))
			json_array_append_new(places, report_text(states[i].destination));
	return places;
}
