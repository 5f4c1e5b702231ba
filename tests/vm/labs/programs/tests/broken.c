// SPDX-License-Identifier: GPL-2.0
/* Does not compile. */
int main(void)
{
	return broken_nowhere_declared;
}
