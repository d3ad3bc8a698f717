"""What each part of the Java core is compared with; every module has make(folder)."""
