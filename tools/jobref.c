#include "tools/jobref.h"

#include <stdio.h>
#include <string.h>

#include "store/store.h"

static int parse_seq(const char *text, const char *digits, uint64_t *ret, struct err *err)
{
	uint64_t value = 0;

	if (*digits < '1' || *digits > '9')
		goto bad;
	for (; *digits; digits++) {
		if (*digits < '0' || *digits > '9' || __builtin_mul_overflow(value, 10, &value) ||
		    __builtin_add_overflow(value, (uint64_t)(*digits - '0'), &value))
			goto bad;
	}
	*ret = value;
	return 0;
bad:
	return err_set(err, ERR_INVALID,
		       "'%s' names no snapshot: after '@' comes its number, 1 or more", text);
}

int jobref_parse(const char *text, struct jobref *ret, struct err *err)
{
	size_t len = strcspn(text, "@");
	struct jobref ref = {0};

	if (len >= sizeof(ref.job))
		return err_set(err, ERR_INVALID, "the job's name is too long: '%.40s...'", text);
	memcpy(ref.job, text, len);
	if (job_name_check(ref.job, err) < 0)
		return -1;
	if (text[len] == '@' && parse_seq(text, text + len + 1, &ref.seq, err) < 0)
		return -1;
	*ret = ref;
	return 0;
}

int jobref_parse_job(const char *text, struct jobref *ret, struct err *err)
{
	struct jobref ref;

	if (jobref_parse(text, &ref, err) < 0)
		return -1;
	if (ref.seq)
		return err_set(err, ERR_INVALID, "'%s' is a snapshot, give the job alone: '%s'",
			       text, ref.job);
	*ret = ref;
	return 0;
}

int jobref_parse_snapshot(const char *text, struct jobref *ret, struct err *err)
{
	struct jobref ref;

	if (jobref_parse(text, &ref, err) < 0)
		return -1;
	if (!ref.seq)
		return err_set(err, ERR_INVALID,
			       "'%s' is a job, name one of its snapshots: '%s@1' ('pawl list %s')",
			       text, ref.job, ref.job);
	*ret = ref;
	return 0;
}
