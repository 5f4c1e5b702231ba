// SPDX-License-Identifier: GPL-2.0-only
/* What a search found is used without a look at whether it found anything. */
#include "zoo.h"

struct sensor {
	int id;
	int value;
};

static struct sensor sensors[] = { { 1, 20 }, { 2, 30 } };

static noinline struct sensor *find_sensor(int id)
{
	int i;

	for (i = 0; i < ARRAY_SIZE(sensors); i++)
		if (sensors[i].id == id)
			return &sensors[i];
	return NULL;
}

static ssize_t sensor_read(struct file *file, char __user *to, size_t count,
			   loff_t *pos)
{
	struct sensor *sensor = find_sensor(3);
	int value = READ_ONCE(sensor->value); /* fault */
	char text[16];
	int len = scnprintf(text, sizeof(text), "%d\n", value);

	return simple_read_from_buffer(to, count, pos, text, len);
}

ZOO_PROC_MODULE("Uses a pointer that is NULL", sensor_read, NULL);
