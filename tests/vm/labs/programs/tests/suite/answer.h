/* SPDX-License-Identifier: GPL-2.0 */
#define ANSWER 42
