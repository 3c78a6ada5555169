#include "store/base/units.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct unit {
	const char *name;
	double factor;
};

static const struct unit duration_units[] = {
	{"", 1e9},    {"ms", 1e6},    {"s", 1e9},       {"m", 60e9},
	{"min", 60e9}, {"h", 3600e9}, {"d", 86400e9},   {NULL, 0},
};

static const struct unit size_units[] = {
	{"", 1},
	{"B", 1},
	{"K", 1024.0},
	{"M", 1024.0 * 1024},
	{"G", 1024.0 * 1024 * 1024},
	{"T", 1024.0 * 1024 * 1024 * 1024},
	{NULL, 0},
};

/* Accepts a plain decimal number only: strtod would take "inf", "nan" and "0x". */
static int parse_number(const char *text, double *ret, const char **ret_end)
{
	size_t digits = strspn(text, "0123456789.");
	char *end;

	if (digits == 0 || digits > 30)
		return -1;
	*ret = strtod(text, &end);
	if (end != text + digits)
		return -1;
	*ret_end = end;
	return 0;
}

static const struct unit *find_unit(const struct unit *units, const char *name)
{
	for (; units->name; units++)
		if (strcmp(units->name, name) == 0)
			return units;
	return NULL;
}

int parse_duration(const char *text, uint64_t *ret_ns, struct err *err)
{
	const struct unit *unit;
	const char *end;
	double number;

	if (parse_number(text, &number, &end) < 0 || !(unit = find_unit(duration_units, end)))
		return err_set(err, ERR_INVALID, "'%s' is not a duration (say 30s, 5m or 2h)", text);
	number *= unit->factor;
	if (number < 1)
		return err_set(err, ERR_INVALID, "duration '%s' must be greater than zero", text);
	if (number > 3.2e18)
		return err_set(err, ERR_INVALID, "duration '%s' is longer than a century", text);
	*ret_ns = (uint64_t)number;
	return 0;
}

int parse_size(const char *text, uint64_t *ret_bytes, struct err *err)
{
	const struct unit *unit = NULL;
	char suffix[8];
	const char *end;
	double number;
	size_t len;

	if (parse_number(text, &number, &end) == 0 && strlen(end) < sizeof(suffix)) {
		strcpy(suffix, end);
		len = strlen(suffix);
		if (len >= 3 && strcmp(suffix + len - 2, "iB") == 0)
			suffix[len - 2] = '\0';
		unit = find_unit(size_units, suffix);
	}
	if (!unit)
		return err_set(err, ERR_INVALID, "'%s' is not a size (say 512M or 4G)", text);
	number *= unit->factor;
	if (number < 1)
		return err_set(err, ERR_INVALID, "size '%s' must be greater than zero", text);
	if (number > 9e18)
		return err_set(err, ERR_INVALID, "size '%s' is too large", text);
	*ret_bytes = (uint64_t)number;
	return 0;
}

const char *format_size(uint64_t bytes, char *buf, size_t len)
{
	static const char *const names[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
	double value = (double)bytes;
	unsigned i = 0;

	while (value >= 1024 && i + 1 < sizeof(names) / sizeof(names[0])) {
		value /= 1024;
		i++;
	}
	snprintf(buf, len, i == 0 || value >= 100 ? "%.0f %s" : "%.1f %s", value, names[i]);
	return buf;
}

const char *format_duration(uint64_t ns, char *buf, size_t len)
{
	uint64_t s = ns / NSEC_PER_SEC;

	if (ns < 1000000)
		snprintf(buf, len, "%.0f us", (double)ns / 1e3);
	else if (ns < NSEC_PER_SEC)
		snprintf(buf, len, "%.1f ms", (double)ns / 1e6);
	else if (s < 60)
		snprintf(buf, len, "%.1f s", (double)ns / 1e9);
	else if (s < 3600)
		snprintf(buf, len, "%um %02us", (unsigned)(s / 60), (unsigned)(s % 60));
	else if (s < 86400)
		snprintf(buf, len, "%uh %02um", (unsigned)(s / 3600), (unsigned)(s / 60 % 60));
	else
		snprintf(buf, len, "%ud %02uh", (unsigned)(s / 86400), (unsigned)(s / 3600 % 24));
	return buf;
}
