package org.edgehadanorm.demo;

import android.content.Context;
import android.view.View;
import android.widget.ArrayAdapter;
import android.widget.EditText;
import android.widget.ProgressBar;
import android.widget.Spinner;
import android.widget.SpinnerAdapter;
import android.widget.TextView;
import java.util.List;
import java.util.Optional;
import java.util.function.Function;

/** Reads the fields of a form and fills views. */
final class Fields {
    private Fields() {
    }

    /** The numbers to choose from, and the chosen one. */
    static void choices(Context context, Spinner spinner, List<Integer> numbers, int chosen) {
        ArrayAdapter<Integer> adapter = new ArrayAdapter<>(context, R.layout.item_choice, numbers);
        adapter.setDropDownViewResource(R.layout.item_choice_open);
        spinner.setAdapter(adapter);
        select(spinner, chosen);
    }

    static void select(Spinner spinner, int number) {
        SpinnerAdapter adapter = spinner.getAdapter();
        for (int position = 0; adapter != null && position < adapter.getCount(); position++) {
            if (adapter.getItem(position).equals(number)) {
                spinner.setSelection(position);
            }
        }
    }

    /** Nothing as long as there are no choices. */
    static Optional<Integer> chosen(Spinner spinner) {
        return Optional.ofNullable((Integer) spinner.getSelectedItem());
    }

    /** The number in a field, or nothing and a word at the field. */
    static <T> Optional<T> number(EditText field, Function<String, T> parse, int problem) {
        try {
            T number = parse.apply(field.getText().toString().trim());
            field.setError(null);
            return Optional.of(number);
        } catch (NumberFormatException error) {
            field.setError(field.getContext().getString(problem));
            field.requestFocus();
            return Optional.empty();
        }
    }

    /** The phrase in the language of a context. */
    static String text(Context context, Phrase phrase) {
        if (phrase.id() == 0) {
            return phrase.plain();
        }
        Object[] values = phrase.values();
        return values.length == 0 ? context.getString(phrase.id()) : context.getString(phrase.id(), values);
    }

    static void say(TextView view, Phrase phrase) {
        view.setText(text(view.getContext(), phrase));
    }

    /** Shows the bar; without one the view is gone. */
    static void show(ProgressBar view, Optional<Bar> bar) {
        visible(view, bar.isPresent());
        bar.ifPresent(now -> {
            view.setIndeterminate(!now.isKnown());
            view.setMax(now.all());
            view.setProgress(now.done());
        });
    }

    static void visible(View view, boolean visible) {
        view.setVisibility(visible ? View.VISIBLE : View.GONE);
    }
}
