"""What to expect from each precision and from merged groups, in sentences, before anyone builds."""
